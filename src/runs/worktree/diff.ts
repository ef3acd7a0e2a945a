import { isUtf8 } from "node:buffer";
import type { SealedBlobs } from "../../blobs/sealed.ts";
import { bornAt } from "../../kernel/look.ts";
import { constants, openBeneath } from "../../kernel/openat2.ts";
import { BUNDLED_BELOW, HASH_LENGTH } from "../../snapshots/pack.ts";
import { openContent } from "../../snapshots/read.ts";
import { createBlobReader, type BlobReader } from "../../snapshots/reader.ts";
import type { Found } from "../../snapshots/walk.ts";
import { Descriptor } from "../../volumes/descriptor.ts";
import { readAt } from "../../volumes/disk.ts";
import type { Pause } from "../../volumes/pause.ts";
import { KIND, type Before, type FileBefore } from "./before.ts";
import { targetOf, type Change } from "./compare.ts";
import { isGone } from "./copy.ts";
import { joined, shownPath, type ShownPath } from "./path.ts";
import { isBinary, PATCH_LIMITS, patchOf, textOf, type Side } from "./patch.ts";

/** What an answer holds at most; the rest is left out, and it says so. */
const LIMITS = { changes: 5000, pathBytes: 4 * 1024 * 1024, patchLength: 4 * 1024 * 1024, searchMs: 1000 };
/** A longer path is not looked up. */
const MAX_PATH_BYTES = 4095;
const SNIFFED_BYTES = 8000;
/** Of added files, so many are read at most to find what they were renamed from. */
const MAX_HASHED = 1000;

type Kind = Found["kind"];

export interface ShownChange extends ShownPath {
  readonly change: "added" | "modified" | "deleted" | "renamed";
  readonly from?: string;
  readonly type: string;
  /** Where that is another one. */
  readonly type_before?: string;
  readonly mode_before: string | null;
  readonly mode_after: string | null;
  readonly size_before: number | null;
  readonly size_after: number | null;
  readonly binary: boolean;
  /** null where there is none to show: of what is no text, too long or no file. */
  readonly patch: string | null;
}

export interface Diff {
  readonly changes: ShownChange[];
  readonly truncated: boolean;
}

interface Item {
  readonly path: readonly Uint8Array[];
  readonly before: Before | null;
  readonly after: Pick<Found, "kind" | "mode" | "size" | "inode"> | null;
  from: readonly Uint8Array[] | null;
}

export interface DiffParts {
  readonly work: Descriptor;
  readonly blobs: Pick<SealedBlobs, "get" | "idOf">;
  readonly changes: AsyncGenerator<Change, void>;
  readonly pause: Pause;
}

/** What has changed in a worktree, as somebody reads it. */
export async function diffOf(parts: DiffParts): Promise<Diff> {
  const { pause } = parts;
  const reader = createBlobReader(parts.blobs);
  const { items, truncated } = await itemsOf(parts.changes);
  const shown: ShownChange[] = [];
  const left = { patchLength: LIMITS.patchLength, leftMs: LIMITS.searchMs, omitted: false };
  // Of the last one nobody knows what would come next.
  const seen = items.slice(0, truncated ? -1 : undefined).filter(isSeen);
  for (const item of await paired(seen, parts)) {
    await pause();
    shown.push(await show(item, { ...parts, reader, left }));
  }
  return { changes: shown, truncated: truncated || left.omitted };
}

async function itemsOf(changes: DiffParts["changes"]): Promise<{ items: Item[]; truncated: boolean }> {
  const items: Item[] = [];
  let pathBytes = 0;
  for await (const { path, before, after } of changes) {
    if (items.length >= LIMITS.changes || pathBytes > LIMITS.pathBytes) return { items, truncated: true };
    // What only the run could have is nothing that a merge takes along.
    if (before === null && after?.kind === "other") continue;
    pathBytes += path.reduce((sum, name) => sum + name.length + 1, 0);
    const now =
      after === null ? null : { kind: after.kind, mode: after.mode, size: after.size, inode: after.inode };
    items.push({ path, before, after: now, from: null });
  }
  return { items, truncated: false };
}

/** A directory that came or went with what is in it is seen by that. */
function isSeen({ path, before, after }: Item, index: number, items: readonly Item[]): boolean {
  const only = before === null ? after?.kind === "directory" : after === null && before.type === "dir";
  const next = items[index + 1];
  return !only || next === undefined || next.path.length <= path.length;
}

/** Deleted and added files that are one and the same become one change. */
async function paired(items: readonly Item[], parts: DiffParts): Promise<Item[]> {
  const gone = items.filter(({ before, after }) => after === null && before?.type === "file");
  const come = items.filter(({ before, after }) => before === null && after?.kind === "file");
  const used = new Map<Item, Item>();
  const taken = new Set<Item>();
  const pair = (now: Item, was: Item | undefined): void => {
    if (was === undefined || taken.has(was)) return;
    used.set(now, was);
    taken.add(was);
  };
  const byInode = new Map(gone.map((item) => [(item.before as FileBefore).stamp?.inode, item]));
  for (const item of come) {
    const was = byInode.get(item.after?.inode);
    if (was !== undefined && isSameFile(item, was.before as FileBefore, parts.work)) pair(item, was);
    await parts.pause();
  }
  const byContent = new Map<string, Item>();
  const sizes = new Set<number>();
  for (const item of gone) {
    const { size, entry } = item.before as FileBefore;
    if (taken.has(item) || size === 0 || entry.hash === undefined) continue;
    byContent.set(entry.hash, item);
    sizes.add(size);
  }
  const candidates = come.filter((item) => !used.has(item) && sizes.has(item.after?.size ?? -1));
  for (const item of candidates.slice(0, MAX_HASHED)) {
    await parts.pause();
    const content = await contentOf(parts.work, item.path, BUNDLED_BELOW);
    if (content?.whole !== true) continue;
    pair(item, byContent.get(parts.blobs.idOf(content.bytes).slice(0, HASH_LENGTH)));
  }
  return items
    .filter((item) => !taken.has(item))
    .map((item) => {
      const was = used.get(item);
      return was === undefined ? item : { ...item, before: was.before, from: was.path };
    });
}

/** An inode is given to another file once its own is gone: that one was made later. */
function isSameFile({ path }: Item, { stamp }: FileBefore, work: Descriptor): boolean {
  using dir = openDirectory(work, path.slice(0, -1));
  using file = dir === null ? null : openContent(dir.fd, nameOf(path));
  const born = file === null ? null : bornAt(file.fd);
  if (born === null || stamp === null) return false;
  return born[0] < stamp.ctime[0] || (born[0] === stamp.ctime[0] && born[1] <= stamp.ctime[1]);
}

interface ShowParts extends DiffParts {
  readonly reader: BlobReader;
  readonly left: { patchLength: number; leftMs: number; omitted: boolean };
}

async function show(item: Item, parts: ShowParts): Promise<ShownChange> {
  const { path, before, after, from } = item;
  const kind: Kind = after?.kind ?? (before === null ? "other" : KIND[before.type]);
  const was: Kind = before === null ? kind : KIND[before.type];
  const name = joined(path);
  const { binary, patch } = await patched(item, name, parts);
  return {
    ...shownPath(path),
    change: from !== null ? "renamed" : before === null ? "added" : after === null ? "deleted" : "modified",
    ...(from !== null && { from: joined(from).toString() }),
    type: kind === "link" ? "symlink" : kind,
    ...(was !== kind && { type_before: was === "link" ? "symlink" : was }),
    mode_before: before === null || before.type === "symlink" ? null : octal(before.mode),
    mode_after: after === null || after.kind === "link" ? null : octal(after.mode),
    size_before: before?.type === "file" ? before.size : null,
    size_after: after?.kind === "file" ? after.size : null,
    binary,
    patch,
  };
}

async function patched(item: Item, name: Buffer, parts: ShowParts) {
  const { before, after, from, path } = item;
  const most = parts.left.patchLength > 0 ? PATCH_LIMITS.textBytes : 0;
  const [old, fresh] = [
    await sideBefore(before, parts.reader, most),
    await sideAfter(after, path, parts.work, most),
  ];
  const binary = old === "binary" || fresh === "binary";
  const none = { binary, patch: null };
  if (binary || !isUtf8(name)) return none;
  if (old === "long" || fresh === "long") {
    parts.left.omitted = true;
    return none;
  }
  // Directories, and what has become another kind of thing, no patch can say.
  if (old === "none" || fresh === "none" || (old === null && fresh === null)) return none;
  const to = name.toString();
  const patch = patchOf({
    from: from === null ? to : joined(from).toString(),
    to,
    before: old,
    after: fresh,
    time: parts.left,
  });
  if (patch.length > PATCH_LIMITS.patchLength || patch.length > parts.left.patchLength) {
    parts.left.omitted = true;
    // There may be room for shorter ones, but to look for those takes as long.
    if (patch.length <= PATCH_LIMITS.patchLength) parts.left.patchLength = 0;
    return none;
  }
  parts.left.patchLength -= patch.length;
  return { binary, patch };
}

/** null: nothing is there. "none": something of which no patch tells. */
type SideOrNot = Side | null | "binary" | "long" | "none";

async function sideBefore(before: Before | null, reader: BlobReader, most: number): Promise<SideOrNot> {
  if (before === null) return null;
  if (before.type === "dir") return "none";
  if (before.type === "symlink") return side("120000", before.target);
  const { size, extents, mode } = before;
  if (size > most) return "long";
  const bytes = Buffer.alloc(size);
  for await (const piece of reader.data(extents)) bytes.set(piece.bytes, piece.position);
  return side(gitMode(mode), bytes);
}

async function sideAfter(
  after: Item["after"],
  path: readonly Uint8Array[],
  work: Descriptor,
  most: number,
): Promise<SideOrNot> {
  if (after === null) return null;
  if (after.kind === "link") {
    using dir = openDirectory(work, path.slice(0, -1));
    const target = dir === null ? null : targetOf(dir.fd, nameOf(path));
    return target === null ? "none" : side("120000", target);
  }
  if (after.kind !== "file") return "none";
  const content = await contentOf(work, path, most);
  if (content === null) return "none";
  if (isBinary(content.bytes)) return "binary";
  return content.whole ? side(gitMode(after.mode), content.bytes) : "long";
}

function side(mode: string, bytes: Uint8Array): Side | "binary" {
  const text = textOf(bytes);
  return text === null ? "binary" : { mode, text };
}

const gitMode = (mode: number): string => ((mode & 0o100) === 0 ? "100644" : "100755");

/** null when it is no file any more. Of a larger one only the start. */
async function contentOf(work: Descriptor, path: readonly Uint8Array[], most: number) {
  using dir = openDirectory(work, path.slice(0, -1));
  if (dir === null) return null;
  using file = openContent(dir.fd, nameOf(path));
  if (file === null) return null;
  const whole = file.look.size <= most;
  const bytes = Buffer.alloc(whole ? file.look.size : SNIFFED_BYTES);
  let have = 0;
  while (have < bytes.length) {
    const count = await readAt(file.fd, bytes, have, bytes.length - have, have);
    if (count === 0) break;
    have += count;
  }
  return { bytes: bytes.subarray(0, have), whole };
}

/** null when it is none any more, or too far away. */
function openDirectory(root: Descriptor, path: readonly Uint8Array[]): Descriptor | null {
  const name = path.length === 0 ? Buffer.from(".") : joined(path);
  if (name.length > MAX_PATH_BYTES) return null;
  try {
    const flags = constants.O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW;
    return new Descriptor(openBeneath(root.fd, name, flags, 0, { noSymlinks: true, noMounts: true }));
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

function nameOf(path: readonly Uint8Array[]): Uint8Array {
  const name = path.at(-1);
  if (name === undefined) throw new Error("a change of the worktree itself");
  return name;
}

const octal = (mode: number): string => mode.toString(8).padStart(4, "0");
