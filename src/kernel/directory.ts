import { constants as fsConstants } from "node:fs";
import { KernelError, NR, syscall } from "./libc.ts";
import type { Path } from "./openat2.ts";

/** What getdents64 tells of an entry without looking at it. "unknown": the file system does not say; ask statAt. */
export type EntryKind = "directory" | "file" | "link" | "other" | "unknown";

export interface Entry {
  /** As on disk: not always UTF-8. Valid for ever, a copy. */
  readonly name: Uint8Array;
  readonly kind: EntryKind;
}

const KINDS: ReadonlyMap<number, EntryKind> = new Map([
  [0, "unknown"],
  [4, "directory"],
  [8, "file"],
  [10, "link"],
]);

/** Of one getdents64: some hundred entries, some tens of microseconds. */
const BATCH_BYTES = 32 * 1024;

/**
 * The entries of an open directory, a batch for each system call, so that a huge directory is neither held in memory
 * nor read in one go. Without `.` and `..`. `fd` must not be O_PATH. Leaves the descriptor open.
 */
export function readDirectory(fd: number): Generator<Entry[]> {
  return batches(fd, (name, type) => ({ name: Uint8Array.from(name), kind: KINDS.get(type) ?? "other" }));
}

/** Of an open directory, as for readDirectory. */
export function isEmptyDirectory(fd: number): boolean {
  for (const batch of readDirectory(fd)) if (batch.length > 0) return false;
  return true;
}

/** The same, only the names, each byte a character (latin1): text like this sorts as its bytes do, and quickly. */
export function readNames(fd: number): Generator<string[]> {
  return batches(fd, (name) => name.toString("latin1"));
}

/** One serves all: what is in it is made into a batch before anybody else has a turn. */
const buffer = Buffer.from(new ArrayBuffer(BATCH_BYTES));

function* batches<T>(fd: number, make: (name: Buffer, type: number) => T): Generator<T[]> {
  for (;;) {
    const length = readBatch(fd);
    if (length === 0) return;
    const batch: T[] = [];
    // struct linux_dirent64: ino 8, off 8, reclen 2, type 1, name and NUL.
    for (let at = 0; at < length; at += buffer.readUInt16LE(at + 16)) {
      const start = at + 19;
      const name = buffer.subarray(start, buffer.indexOf(0, start));
      if (!isDots(name)) batch.push(make(name, buffer.readUInt8(at + 18)));
    }
    yield batch;
  }
}

/** 0 at the end, and for a directory that was removed since it was opened: nothing is in it. */
function readBatch(fd: number): number {
  try {
    return syscall("getdents64", NR.getdents64, fd, buffer, BATCH_BYTES);
  } catch (error) {
    if (error instanceof KernelError && error.code === "ENOENT") return 0;
    throw error;
  }
}

function isDots(name: Uint8Array): boolean {
  return name[0] === 0x2e && (name.length === 1 || (name.length === 2 && name[1] === 0x2e));
}

export interface FileStatus {
  readonly kind: Exclude<EntryKind, "unknown">;
  /** Permission bits, with setuid, setgid and sticky. */
  readonly mode: number;
  readonly device: bigint;
  readonly inode: bigint;
  readonly links: bigint;
  readonly uid: number;
  readonly size: number;
  /** What it takes on the disk. */
  readonly diskBytes: number;
  readonly modifiedNs: bigint;
  readonly changedNs: bigint;
}

const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_EMPTY_PATH = 0x1000;
const STAT_BYTES = 144;
const { S_IFMT, S_IFDIR, S_IFREG, S_IFLNK } = fsConstants;

/** What the entry `name` of a directory is; a symlink is itself, not what it points to. */
export function statAt(dirFd: number, name: Path): FileStatus {
  return stat(dirFd, cName(name), AT_SYMLINK_NOFOLLOW);
}

/** What an open descriptor is, O_PATH or not. */
export function statFd(fd: number): FileStatus {
  return stat(fd, EMPTY, AT_EMPTY_PATH);
}

/** The text of a symlink, as bytes; EINVAL when the entry is something else. */
export function readLinkAt(dirFd: number, name: Path): Uint8Array {
  const buffer = Buffer.alloc(PATH_MAX);
  return buffer.subarray(0, syscall("readlinkat", NR.readlinkat, dirFd, cName(name), buffer, PATH_MAX));
}

const PATH_MAX = 4096;
const EMPTY = Buffer.from([0]);

function cName(name: Path): Uint8Array {
  const bytes = typeof name === "string" ? Buffer.from(name) : name;
  if (bytes.length === 0 || bytes.includes(0) || bytes.includes(0x2f)) {
    throw new Error("an entry's name has no NUL and no slash");
  }
  return Buffer.concat([bytes, EMPTY]);
}

function stat(dirFd: number, name: Uint8Array, flags: number): FileStatus {
  const raw = Buffer.alloc(STAT_BYTES);
  syscall("newfstatat", NR.newfstatat, dirFd, name, raw, flags);
  // struct stat of x86-64: dev, ino, nlink (8 each), mode, uid, gid, pad (4 each), rdev, size, blksize, blocks,
  // then atime, mtime and ctime as seconds and nanoseconds.
  const mode = raw.readUInt32LE(24);
  return {
    kind: kindOf(mode),
    mode: mode & 0o7777,
    device: raw.readBigUInt64LE(0),
    inode: raw.readBigUInt64LE(8),
    links: raw.readBigUInt64LE(16),
    uid: raw.readUInt32LE(28),
    size: Number(raw.readBigInt64LE(48)),
    diskBytes: Number(raw.readBigInt64LE(64)) * 512,
    modifiedNs: raw.readBigInt64LE(88) * 1_000_000_000n + raw.readBigInt64LE(96),
    changedNs: raw.readBigInt64LE(104) * 1_000_000_000n + raw.readBigInt64LE(112),
  };
}

function kindOf(mode: number): FileStatus["kind"] {
  switch (mode & S_IFMT) {
    case S_IFDIR:
      return "directory";
    case S_IFREG:
      return "file";
    case S_IFLNK:
      return "link";
    default:
      return "other";
  }
}
