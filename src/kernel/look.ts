import { constants as fsConstants } from "node:fs";
import { KernelError, NR, syscall } from "./libc.ts";

/** Seconds since 1970, and nanoseconds. */
export type Time = readonly [seconds: number, nanoseconds: number];

/**
 * What an entry of a directory is, as a walk over many needs it: plain numbers, and made in a microsecond. See
 * statAt for one entry in full.
 */
export interface Look {
  readonly kind: "directory" | "file" | "link" | "other";
  /** Permission bits, with setuid, setgid and sticky. */
  readonly mode: number;
  /** Exact up to 2^53. */
  readonly inode: number;
  /** The exact inode of a file that has more than one name. */
  readonly shared: bigint | null;
  readonly device: number;
  readonly size: number;
  /** Less than its size: it has holes, or what the file system stores in a shorter form. */
  readonly allocatedBytes: number;
  readonly mtime: Time;
  readonly ctime: Time;
}

const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_EMPTY_PATH = 0x1000;
const { S_IFMT, S_IFDIR, S_IFREG, S_IFLNK } = fsConstants;

// One of each serves all calls: they are synchronous and none calls another. Such memory never moves.
const stat = new ArrayBuffer(144);
const words = new Uint32Array(stat);
const signed = new Int32Array(stat);
const longs = new BigUint64Array(stat);
const path = Buffer.from(new ArrayBuffer(256));

/** `name` as readNames tells it. null when there is no such entry (any more). */
export function lookAt(dirFd: number, name: string): Look | null {
  path[path.write(name, 0, 255, "latin1")] = 0;
  try {
    syscall("newfstatat", NR.newfstatat, dirFd, path, words, AT_SYMLINK_NOFOLLOW);
  } catch (error) {
    if (error instanceof KernelError && error.code === "ENOENT") return null;
    throw error;
  }
  return look();
}

const STATX_BTIME = 0x800;
/** struct statx: mask 0, btime as seconds and nanoseconds from 80. */
const statx = Buffer.from(new ArrayBuffer(256));

/** When an open file was made; null where the file system does not say. Its inode may have been another's before. */
export function bornAt(fd: number): Time | null {
  path[0] = 0;
  syscall("statx", NR.statx, fd, path, AT_EMPTY_PATH, STATX_BTIME, statx);
  if ((statx.readUInt32LE(0) & STATX_BTIME) === 0) return null;
  return [Number(statx.readBigInt64LE(80)), statx.readUInt32LE(88)];
}

export function lookFd(fd: number): Look {
  path[0] = 0;
  syscall("newfstatat", NR.newfstatat, fd, path, words, AT_EMPTY_PATH);
  return look();
}

/**
 * struct stat of x86-64 in words: dev 0, ino 2, nlink 4, mode 6, uid 7, gid 8, rdev 10, size 12, blksize 14, blocks 16,
 * then atime, mtime and ctime as seconds and nanoseconds from 18, 22 and 26.
 */
function look(): Look {
  const mode = word(6);
  const kind = kindOf(mode & S_IFMT);
  return {
    kind,
    mode: mode & 0o7777,
    inode: long(2),
    shared: kind === "file" && (word(4) > 1 || word(5) > 0) ? (longs[1] ?? 0n) : null,
    device: long(0),
    size: long(12),
    allocatedBytes: long(16) * 512,
    mtime: [long(22), word(24)],
    ctime: [long(26), word(28)],
  };
}

const word = (index: number): number => words[index] ?? 0;
const long = (index: number): number => (signed[index + 1] ?? 0) * 2 ** 32 + word(index);

function kindOf(format: number): Look["kind"] {
  if (format === S_IFREG) return "file";
  if (format === S_IFDIR) return "directory";
  return format === S_IFLNK ? "link" : "other";
}
