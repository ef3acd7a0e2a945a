import { lookAt, type Look } from "../../kernel/look.ts";
import { openContent } from "../../snapshots/read.ts";
import type { BlobReader } from "../../snapshots/reader.ts";
import { readAt } from "../../volumes/disk.ts";
import type { Descriptor } from "../../volumes/descriptor.ts";
import { createReach, type Reach } from "../../volumes/reach.ts";
import type { Pause } from "../../volumes/pause.ts";
import { KIND, type FileBefore } from "./before.ts";
import { hasContent, targetOf } from "./compare.ts";
import type { Wish } from "./wish.ts";

const PIECE = 256 * 1024;
/** A file that changed less than this before its manifest began may have changed again within the same tick. */
const TRUST_AFTER_S = 2;

/** What the namespace has at a path. */
export interface There {
  /** null: nothing. */
  readonly look: Look | null;
  /** So many of the names on the way are directories. */
  readonly depth: number;
  /** Something else stands in the place of the next one. */
  readonly blocked: boolean;
}

/** Of the namespace's entry at a path: as the run found it, as the run left it, or neither. */
export type Verdict = "stands" | "arrived" | "changed";

interface Known {
  readonly inode: number;
  readonly ctime: Look["ctime"];
  readonly verdict: Verdict;
}

export interface VerdictParts {
  readonly work: Descriptor;
  readonly reader: BlobReader;
  /** Milliseconds since 1970, when the base was begun; 0 when its times say nothing of the namespace. */
  readonly started: number;
  readonly pause: Pause;
}

export type Verdicts = ReturnType<typeof createVerdicts>;

/**
 * Tells what became of the namespace's side of a run's changes. What was read for an answer is remembered, so that asking
 * again while the namespace is held up costs a look.
 */
export function createVerdicts({ work, reader, started, pause }: VerdictParts) {
  const known = new Map<Wish, Known>();
  const trustedBefore = started / 1000 - TRUST_AFTER_S;
  const mine = createReach(work);

  async function isBefore(wish: Wish, look: Look | null, dirFd: number, name: Uint8Array): Promise<boolean> {
    const { before } = wish;
    if (before === null || look === null) return before === null && look === null;
    if (KIND[before.type] !== look.kind) return false;
    if (before.type === "symlink") return targetOf(dirFd, name)?.equals(before.target) ?? false;
    if (before.mode !== look.mode) return false;
    if (before.type === "dir") return true;
    if (before.size !== look.size) return false;
    return isUnread(before, look) || (await hasContent(reader, before, dirFd, name));
  }

  function isUnread({ entry }: FileBefore, { inode, ctime }: Look): boolean {
    const same = entry.inode === inode && entry.ctime[0] === ctime[0] && entry.ctime[1] === ctime[1];
    return same && ctime[0] < trustedBefore;
  }

  async function isAfter(wish: Wish, look: Look | null, dirFd: number, name: Uint8Array): Promise<boolean> {
    const { before, after, path } = wish;
    if (after === null || look === null) return after === null && look === null;
    if (after.kind !== look.kind) return false;
    switch (after.kind) {
      case "directory":
        // Two that were made are one.
        return before === null || after.mode === look.mode;
      case "link": {
        const target = targetOf(dirFd, name);
        const { dir, depth } = mine.to(path.slice(0, -1));
        const wanted = depth < path.length - 1 ? null : targetOf(dir.fd, name);
        return target !== null && wanted !== null && target.equals(wanted);
      }
      case "file":
        if (after.mode !== look.mode || after.size !== look.size) return false;
        return hasSame(mine, wish, dirFd, name);
      default:
        return after.kind satisfies never;
    }
  }

  async function hasSame(reach: Reach, { path }: Wish, dirFd: number, name: Uint8Array): Promise<boolean> {
    const { dir, depth } = reach.to(path.slice(0, -1));
    if (depth < path.length - 1) return false;
    using ours = openContent(dir.fd, name);
    using theirs = openContent(dirFd, name);
    if (ours === null || theirs === null || ours.look.size !== theirs.look.size) return false;
    const [a, b] = [Buffer.alloc(PIECE), Buffer.alloc(PIECE)];
    for (let at = 0; at < ours.look.size;) {
      await pause();
      const [inA, inB] = [await readAt(ours.fd, a, 0, PIECE, at), await readAt(theirs.fd, b, 0, PIECE, at)];
      if (inA !== inB || inA === 0 || Buffer.compare(a.subarray(0, inA), b.subarray(0, inB)) !== 0)
        return false;
      at += inA;
    }
    return true;
  }

  return {
    async of(wish: Wish, look: Look | null, dirFd: number): Promise<Verdict> {
      const name = nameOf(wish);
      const before = known.get(wish);
      if (look !== null && before !== undefined && isStill(before, look)) return before.verdict;
      const verdict = (await isBefore(wish, look, dirFd, name))
        ? "stands"
        : (await isAfter(wish, look, dirFd, name))
          ? "arrived"
          : "changed";
      if (look?.kind === "file") known.set(wish, { inode: look.inode, ctime: look.ctime, verdict });
      return verdict;
    },

    [Symbol.dispose]: () => mine[Symbol.dispose](),
  };
}

function isStill({ inode, ctime }: Known, look: Look): boolean {
  // What changed just now may change again within the same tick.
  const settled = look.ctime[0] + look.ctime[1] / 1e9 < Date.now() / 1000 - 1;
  return settled && look.inode === inode && look.ctime[0] === ctime[0] && look.ctime[1] === ctime[1];
}

export function nameOf({ path }: Pick<Wish, "path">): Uint8Array {
  const name = path.at(-1);
  if (name === undefined) throw new Error("a change of the worktree itself");
  return name;
}

/** What lies at a path of the namespace. */
export function lookTo(reach: Reach, path: Wish["path"]): There & { readonly dirFd: number } {
  const above = path.slice(0, -1);
  const { dir, depth } = reach.to(above);
  const name = path[depth];
  const look = name === undefined ? null : lookAt(dir.fd, Buffer.from(name).toString("latin1"));
  if (depth < above.length) return { look: null, depth, blocked: look !== null, dirFd: dir.fd };
  return { look, depth, blocked: false, dirFd: dir.fd };
}
