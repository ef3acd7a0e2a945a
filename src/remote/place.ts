import { codeOf } from "../errors.ts";
import { readlinkSync } from "node:fs";
import { lookAt, lookFd, type Look } from "../kernel/look.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import type { DirectoryEntry, FileEntry } from "../snapshots/manifest.ts";
import { OPEN_DIRECTORY } from "../volumes/beneath.ts";
import { Descriptor } from "../volumes/descriptor.ts";
import { pathKey, type Change, type Delta, type PathKey } from "./delta.ts";
import type { Kept } from "./mirror.ts";

/** An entry that calls have just changed, by its path from the workspace's directory, in which no name is a link. */
export interface Place {
  readonly names: readonly Buffer[];
  /** What it was changed to, null being nothing. Of several at once nobody knows which came last. */
  readonly kept: readonly (Kept | null)[];
}

const SLASH = 0x2f;

/**
 * Where an open directory lies in the workspace by now, from the kernel's own word for it. null when it is not in there
 * (any more).
 */
export function namesOf(live: Descriptor, dirFd: number): Buffer[] | null {
  const root = pathOf(live.fd);
  const path = pathOf(dirFd);
  if (path.equals(root)) return [];
  if (!path.subarray(0, root.length).equals(root) || path[root.length] !== SLASH) return null;
  return split(path.subarray(root.length + 1));
}

function pathOf(fd: number): Buffer {
  return readlinkSync(`/proc/self/fd/${fd}`, { encoding: "buffer" });
}

function split(path: Buffer): Buffer[] {
  const names: Buffer[] = [];
  for (let start = 0; start <= path.length;) {
    const slash = path.indexOf(SLASH, start);
    const end = slash === -1 ? path.length : slash;
    names.push(path.subarray(start, end));
    start = end + 1;
  }
  return names;
}

/**
 * What a place is by now, with the directories above it that `delta` does not have yet. null when it is something else
 * than it was changed to: a command moves things about, and only a look at everything tells where they went.
 */
export function lookAtPlace(live: Descriptor, place: Place, delta: Delta): Map<PathKey, Change> | null {
  const changes = new Map<PathKey, Change>();
  const above = place.names.slice(0, -1);
  const name = place.names.at(-1);
  if (name === undefined) return null;
  let dir = new Descriptor(openBeneath(live.fd, ".", OPEN_DIRECTORY));
  try {
    for (const [depth, each] of above.entries()) {
      const child = openBeneath(dir.fd, each, OPEN_DIRECTORY | constants.O_NOFOLLOW, 0, { noSymlinks: true });
      dir[Symbol.dispose]();
      dir = new Descriptor(child);
      const key = pathKey(place.names.slice(0, depth + 1));
      // The last one has got or lost a name.
      if (depth === above.length - 1 || delta.get(key)?.type !== "dir") {
        changes.set(key, directoryEntry(depth, each, lookFd(dir.fd)));
      }
    }
    const look = lookAt(dir.fd, name.toString("latin1"));
    const change = changeTo(above.length, name, look, place.kept);
    if (change === undefined) return null;
    return changes.set(pathKey(place.names), change);
  } catch (error) {
    if (["ENOENT", "ENOTDIR", "ELOOP", "EXDEV"].includes(codeOf(error) ?? "")) return null;
    throw error;
  } finally {
    dir[Symbol.dispose]();
  }
}

/** undefined: it is not as it was changed to. */
function changeTo(depth: number, name: Buffer, look: Look | null, kept: Place["kept"]): Change | undefined {
  if (look === null) return kept.includes(null) ? null : undefined;
  if (look.kind !== "file" || look.shared !== null) return undefined;
  const { mode, size, mtime, ctime, inode } = look;
  const own = kept.find(
    (each) =>
      each?.inode === inode && each.size === size && each.mtime[0] === mtime[0] && each.mtime[1] === mtime[1],
  );
  if (own === undefined || own === null || own.data === null) return undefined;
  const { data, hash } = own;
  const stored = { data, ...(hash !== undefined && { hash }) };
  return { type: "file", depth, name, mode, mtime, size, ctime, inode, ...stored } satisfies FileEntry;
}

function directoryEntry(depth: number, name: Buffer, { mode, mtime }: Look): DirectoryEntry {
  return { type: "dir", depth, name, mode, mtime };
}
