import { ptr } from "bun:ffi";
import { KernelError, NR, syscall } from "./libc.ts";

const RWF_NOWAIT = 8;
/** What a file system without RWF_NOWAIT says; the number has two names. */
const ENOTSUP = 95;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

/** struct iovec; one serves all calls. */
const iovec = new BigUint64Array(new ArrayBuffer(16));

/**
 * Reads what is in the page cache, so that it never waits for the disk: fewer bytes than wanted, or null when the first
 * is not there, or the file system can't tell. 0 at the end of the file.
 */
export function readCached(
  fd: number,
  into: Uint8Array,
  offset: number,
  length: number,
  position: number,
): number | null {
  iovec[0] = BigInt(ptr(into, offset));
  iovec[1] = BigInt(length);
  try {
    return syscall("preadv2", NR.preadv2, fd, iovec, 1, position, 0, RWF_NOWAIT);
  } catch (error) {
    if (error instanceof KernelError && (error.code === "EAGAIN" || error.errno === ENOTSUP)) return null;
    throw error;
  }
}

/** Where the next data of a file begins and ends, from `position` on; null when there is none any more. */
export function nextData(fd: number, position: number): { start: number; end: number } | null {
  try {
    const start = syscall("lseek", NR.lseek, fd, position, SEEK_DATA);
    return { start, end: syscall("lseek", NR.lseek, fd, start, SEEK_HOLE) };
  } catch (error) {
    if (error instanceof KernelError && error.code === "ENXIO") return null;
    throw error;
  }
}

/** _IOW(0x94, 9, int), linux/fs.h. */
const FICLONE = 0x40049409;

/**
 * Makes the empty file `to` share all that `from` holds. false where the file system can't: ext4, two encryption keys, two
 * file systems. What of `from` is not on the disk yet is written there first, so it may wait.
 */
export function cloneFile(from: number, to: number): boolean {
  try {
    syscall("ioctl FICLONE", NR.ioctl, to, FICLONE, from);
    return true;
  } catch (error) {
    if (error instanceof KernelError && CANNOT_CLONE.has(error.code)) return false;
    throw error;
  }
}

/** ENOTTY where the file system knows no such call; EINVAL, EPERM where it does and not for these two. */
const CANNOT_CLONE: ReadonlySet<string> = new Set([
  "ENOTTY",
  "ENOTSUP",
  "EOPNOTSUPP",
  "EXDEV",
  "EINVAL",
  "EPERM",
]);
