import { codeOf } from "../../errors.ts";
import { readLinkAt } from "../../kernel/directory.ts";
import { compareContent } from "../../snapshots/comparison.ts";
import { openContent } from "../../snapshots/read.ts";
import type { BlobReader } from "../../snapshots/reader.ts";
import { walk, type Found } from "../../snapshots/walk.ts";
import type { Descriptor } from "../../volumes/descriptor.ts";
import type { Pause } from "../../volumes/pause.ts";
import { KIND, type Before, type FileBefore, type Placed } from "./before.ts";

/** A path at which a worktree is not what it was made with. */
export interface Change {
  readonly path: readonly Uint8Array[];
  readonly before: Before | null;
  /** Valid until the next change is asked for, since its directory is. */
  readonly after: Found | null;
}

export interface CompareParts {
  readonly work: Descriptor;
  readonly base: AsyncGenerator<Placed, void>;
  readonly reader: BlobReader;
  readonly pause: Pause;
}

/**
 * What has changed in a worktree, in a manifest's order: a directory before what is in it. It may change meanwhile, and
 * then what is said of it is of one moment or another. Of directories only the mode counts; no time does.
 */
export async function* changesOf({ work, base, reader, pause }: CompareParts): AsyncGenerator<Change, void> {
  const isSame = createIsSame(reader);
  const walking = walk(work);
  const there: Uint8Array[] = [];
  const here: Uint8Array[] = [];

  async function nextFound(): Promise<Found | null> {
    for (;;) {
      const { done, value } = walking.next();
      if (done === true) return null;
      await pause();
      if (value === null || value === undefined) continue;
      here.splice(value.depth, Infinity, value.name);
      return value;
    }
  }

  async function nextBefore(): Promise<Placed | null> {
    const { done, value } = await base.next();
    if (done === true) return null;
    there.splice(value.depth, Infinity, value.name);
    return value;
  }

  try {
    let before = await nextBefore();
    let after = await nextFound();
    while (before !== null || after !== null) {
      const order = orderOf(before, after);
      if (order < 0 && before !== null) {
        yield { path: [...there], before: before.before, after: null };
        before = await nextBefore();
      } else if (order > 0 && after !== null) {
        yield { path: [...here], before: null, after };
        after = await nextFound();
      } else if (before !== null && after !== null) {
        if (!(await isSame(before.before, after))) yield { path: [...here], before: before.before, after };
        before = await nextBefore();
        after = await nextFound();
      }
    }
  } finally {
    walking.return();
    await base.return();
  }
}

/**
 * Which comes first. Where one lies deeper, the other has left the directory that both were in, or never entered it: then
 * the deeper one is in that one alone.
 */
function orderOf(before: Placed | null, after: Found | null): number {
  if (before === null) return 1;
  if (after === null) return -1;
  if (before.depth !== after.depth) return after.depth - before.depth;
  return Buffer.compare(before.name, after.name);
}

function createIsSame(reader: BlobReader) {
  /** Of files with more names, a hundred thousand perhaps: what was read of them. */
  const known = new Map<FileBefore, Map<bigint, boolean>>();

  async function holds(before: FileBefore, { shared, dirFd, name }: Found): Promise<boolean> {
    if (shared === null || before.entry.link === undefined) return hasContent(reader, before, dirFd, name);
    const answers = known.get(before) ?? new Map<bigint, boolean>();
    known.set(before, answers);
    const answer = answers.get(shared) ?? (await hasContent(reader, before, dirFd, name));
    answers.set(shared, answer);
    return answer;
  }

  return async (before: Before, after: Found): Promise<boolean> => {
    if (KIND[before.type] !== after.kind) return false;
    switch (before.type) {
      case "dir":
        return before.mode === after.mode;
      case "symlink":
        return targetOf(after.dirFd, after.name)?.equals(before.target) ?? false;
      case "file":
        if (before.mode !== after.mode || before.size !== after.size) return false;
        return isUntouched(before, after) || (await holds(before, after));
      default:
        return before satisfies never;
    }
  };
}

function isUntouched({ stamp }: FileBefore, { inode, ctime }: Found): boolean {
  return (
    stamp !== null && stamp.inode === inode && stamp.ctime[0] === ctime[0] && stamp.ctime[1] === ctime[1]
  );
}

/** Whether the file of that name holds what it did. */
export async function hasContent(
  reader: BlobReader,
  { extents, size }: Pick<FileBefore, "extents" | "size">,
  dirFd: number,
  name: Uint8Array,
): Promise<boolean> {
  using file = openContent(dirFd, name);
  if (file === null || file.look.size !== size) return false;
  const comparison = compareContent(reader, file.fd, size);
  return (await comparison.has(extents)) && (await comparison.ended());
}

/** null when it is no link any more. */
export function targetOf(dirFd: number, name: Uint8Array): Buffer | null {
  try {
    return Buffer.from(readLinkAt(dirFd, name));
  } catch (error) {
    if (codeOf(error) === "ENOENT" || codeOf(error) === "EINVAL") return null;
    throw error;
  }
}
