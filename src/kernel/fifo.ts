import { fstatSync } from "node:fs";
import { codeOf } from "../errors.ts";
import { cString, KernelError, NR, syscall } from "./libc.ts";
import { closeFd, constants } from "./openat2.ts";

const S_IFIFO = 0o10000;
const F_SETPIPE_SZ = 1031;
const FIONREAD = 0x541b;
const SPLICE_F_MOVE = 1;
const SPLICE_F_NONBLOCK = 2;
/** A write of up to so many bytes is never torn nor mixed with another: pipe(7). */
const PIPE_BUF = 4096;

/** One serves all calls: they are synchronous and none calls another. Such memory never moves. */
const offset = new BigInt64Array(new ArrayBuffer(8));
const count = new Int32Array(new ArrayBuffer(4));

/** For its owner alone. One that is there already stays, with what is in it. */
export function makeFifo(path: string): void {
  try {
    syscall("mknodat", NR.mknodat, constants.AT_FDCWD, cString(path), S_IFIFO | 0o600, 0, 0, 0, path);
  } catch (error) {
    if (codeOf(error) !== "EEXIST") throw error;
  }
}

/**
 * Opened to read and to write, so that it never ends and keeps what is in it for as long as this is open. null when
 * there is none. Calls on it never wait.
 */
export function openFifo(path: string): number | null {
  const { O_RDWR, O_NONBLOCK, O_NOFOLLOW, O_CLOEXEC, AT_FDCWD } = constants;
  let fd: number;
  try {
    const flags = O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC;
    fd = syscall("openat", NR.openat, AT_FDCWD, cString(path), flags, 0, 0, 0, path);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    throw error;
  }
  if (fstatSync(fd).isFIFO()) return fd;
  closeFd(fd);
  throw new Error(`${path} is no FIFO`);
}

/** How much it holds before a writer has to wait; false when the kernel does not grant it to this user any more. */
export function setPipeSize(fd: number, bytes: number): boolean {
  try {
    syscall("fcntl F_SETPIPE_SZ", NR.fcntl, fd, F_SETPIPE_SZ, bytes);
    return true;
  } catch (error) {
    if (codeOf(error) === "EPERM" || codeOf(error) === "EBUSY") return false;
    throw error;
  }
}

/** What is in it. */
export function bytesWaiting(fd: number): number {
  syscall("ioctl FIONREAD", NR.ioctl, fd, FIONREAD, count);
  return count[0] ?? 0;
}

/**
 * Moves up to `most` bytes out of a pipe to `position` of a file, without a copy of them in this process: they leave the
 * pipe only when the file has them, so that a kill at any moment neither loses nor doubles one. 0 when it is empty.
 */
export function spliceToFile(pipe: number, file: number, position: number, most: number): number {
  offset[0] = BigInt(position);
  try {
    return syscall("splice", NR.splice, pipe, 0, file, offset, most, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  } catch (error) {
    if (error instanceof KernelError && (error.code === "EAGAIN" || error.code === "EINTR")) return 0;
    throw error;
  }
}

/** All of it or nothing: false when there is no room for it now. At most PIPE_BUF bytes. */
export function writeWhole(fd: number, bytes: Uint8Array): boolean {
  if (bytes.length > PIPE_BUF) throw new RangeError("more than a pipe takes at once");
  try {
    return syscall("write", NR.write, fd, bytes, bytes.length) === bytes.length;
  } catch (error) {
    if (codeOf(error) === "EAGAIN") return false;
    throw error;
  }
}
