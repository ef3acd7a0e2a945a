import { readNames } from "../kernel/directory.ts";
import { lookAt, lookFd, type Look } from "../kernel/look.ts";
import { constants, openBeneath, openParent } from "../kernel/openat2.ts";
import { AppError, codeOf } from "../errors.ts";
import { Descriptor } from "../volumes/descriptor.ts";

const OPEN_DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/** Directories kept open at once. One further up is found again by its child. */
const OPEN_AT_ONCE = 16;
/** Memory for the names of one directory, and for those of all directories further up; the rest is read again. */
const LIMITS = { namesBytes: 8 * 1024 * 1024, namesAboveBytes: 32 * 1024 * 1024 };
const NAME_OVERHEAD = 32;
const MAX_DEPTH = 100_000;

/** An entry of the tree. Valid until the walk goes on, since `dirFd` is. */
export interface Found extends Look {
  /** 0: in the root. */
  readonly depth: number;
  readonly name: Buffer;
  /** The name, each byte a character. */
  readonly text: string;
  /** The directory it is in. */
  readonly dirFd: number;
}

interface Frame {
  dir: Descriptor | null;
  readonly look: Look;
  /** In order; those from `next` on are to come. */
  names: string[];
  next: number;
  /** Whether there are more names behind the last. */
  more: boolean;
  /** What the names take. */
  bytes: number;
}

/**
 * All that is below a directory, in a manifest's order: a directory before what is in it, names by their bytes. It
 * yields null where the caller may pause. What the tenant changes meanwhile is found or not, and a directory that is
 * moved away while the walk is deep inside may be left unfinished, as may those above it; in a tree that stands still
 * everything is found. It follows no link, leaves no file system, and takes a bounded number of descriptors and, for a
 * directory of any size, a bounded amount of memory.
 */
export function* walk(root: Descriptor, limits = LIMITS): Generator<Found | null, void> {
  const frames: Frame[] = [];
  /** Of the directories that are closed. */
  const held = { bytes: 0 };
  try {
    frames.push(frameOf(new Descriptor(openBeneath(root.fd, ".", OPEN_DIRECTORY))));
    for (let frame = frames.at(-1); frame !== undefined; frame = frames.at(-1)) {
      const name = frame.names[frame.next];
      if (frame.dir === null || (name === undefined && !frame.more)) {
        leave(frames, held);
        // Each is some system calls, and they may be thousands in a row.
        yield null;
      } else if (name === undefined) {
        yield* readOn(frame, frame.dir, limits.namesBytes);
      } else {
        frame.next += 1;
        const look = lookAt(frame.dir.fd, name);
        if (look === null) continue;
        const depth = frames.length - 1;
        if (look.kind !== "directory") {
          yield foundOf(look, depth, name, frame.dir.fd);
          continue;
        }
        const child = openChild(frame.dir.fd, Buffer.from(name, "latin1"));
        if (child === null) continue;
        if (frames.length >= MAX_DEPTH) {
          child[Symbol.dispose]();
          throw tooDeep();
        }
        const below = frameOf(child);
        frames.push(below);
        yield foundOf(below.look, depth, name, frame.dir.fd);
        const far = frames.length - 1 - OPEN_AT_ONCE;
        // The top is never let go.
        if (far > 0) close(frames[far], held, limits.namesAboveBytes);
      }
    }
  } finally {
    for (const { dir } of frames) dir?.[Symbol.dispose]();
  }
}

/** Written out, since there are many: a spread takes longer than the system call. */
function foundOf(look: Look, depth: number, text: string, dirFd: number): Found {
  const { kind, mode, inode, shared, device, size, allocatedBytes, mtime, ctime } = look;
  const name = Buffer.from(text, "latin1");
  return { kind, mode, inode, shared, device, size, allocatedBytes, mtime, ctime, depth, name, text, dirFd };
}

function frameOf(dir: Descriptor): Frame {
  return { dir, look: lookFd(dir.fd), names: [], next: 0, more: true, bytes: 0 };
}

/** Closes the directory, and forgets its names if too many are held. */
function close(frame: Frame | undefined, held: { bytes: number }, atMost: number): void {
  if (frame === undefined) return;
  frame.dir?.[Symbol.dispose]();
  frame.dir = null;
  if (frame.next < frame.names.length && held.bytes + frame.bytes > atMost) {
    const last = frame.names.slice(frame.next - 1, frame.next);
    Object.assign(frame, { names: last, next: 1, more: true, bytes: sizeOf(last) });
  }
  held.bytes += frame.bytes;
}

/** Ends the last frame. The one above is opened again, if it was closed, where it lies now. */
function leave(frames: Frame[], held: { bytes: number }): void {
  const done = frames.pop();
  const above = frames.at(-1);
  if (done === undefined) return;
  if (above?.dir === null) {
    held.bytes -= above.bytes;
    if (done.dir !== null) above.dir = reopened(done.dir, above.look);
  }
  done.dir?.[Symbol.dispose]();
}

/** null when what lies above is another directory by now. */
function reopened(child: Descriptor, expected: Look): Descriptor | null {
  const dir = new Descriptor(openParent(child.fd, OPEN_DIRECTORY));
  const { inode, device } = lookFd(dir.fd);
  if (inode === expected.inode && device === expected.device) return dir;
  dir[Symbol.dispose]();
  return null;
}

/** The next names of a directory: all, or those that come first behind the last one, however many there are. */
function* readOn(frame: Frame, dir: Descriptor, atMost: number): Generator<null, void> {
  const after = frame.names.at(-1);
  let names: string[] = [];
  let bytes = 0;
  /** Names behind it are for later. */
  let ceiling: string | undefined;
  // A directory that was just opened is read from its start anyway.
  using again = after === undefined ? null : new Descriptor(openBeneath(dir.fd, ".", OPEN_DIRECTORY));
  for (const batch of readNames((again ?? dir).fd)) {
    for (const name of batch) {
      if ((after !== undefined && name <= after) || (ceiling !== undefined && name > ceiling)) continue;
      names.push(name);
      bytes += name.length + NAME_OVERHEAD;
    }
    if (bytes > 2 * atMost) {
      names = firstOf(names, atMost);
      bytes = sizeOf(names);
      ceiling = names.at(-1);
    }
    yield null;
  }
  Object.assign(frame, { names: names.sort(), next: 0, more: ceiling !== undefined, bytes });
}

function firstOf(names: string[], atMost: number): string[] {
  names.sort();
  let bytes = 0;
  const end = names.findIndex((name) => (bytes += name.length + NAME_OVERHEAD) > atMost);
  return end === -1 ? names : names.slice(0, Math.max(end, 1));
}

function sizeOf(names: readonly string[]): number {
  return names.reduce((sum, name) => sum + name.length + NAME_OVERHEAD, 0);
}

/** null for what is no directory any more. */
function openChild(dirFd: number, name: Buffer): Descriptor | null {
  try {
    return new Descriptor(openBeneath(dirFd, name, OPEN_DIRECTORY, 0, { noSymlinks: true, noMounts: true }));
  } catch (error) {
    const code = codeOf(error);
    if (code === "ENOENT" || code === "ENOTDIR" || code === "ELOOP") return null;
    throw error;
  }
}

function tooDeep(): AppError {
  return new AppError(
    "conflict",
    `The namespace has directories ${MAX_DEPTH} deep; a snapshot can't hold more. Delete some of them.`,
  );
}
