import { KernelError, NR, syscall } from "./libc.ts";

/** Flags of the calls below: open(2), openat2(2), rename(2), unlink(2), as x86-64 numbers them. */
export const constants = {
  O_RDONLY: 0,
  O_WRONLY: 0o1,
  O_RDWR: 0o2,
  O_CREAT: 0o100,
  O_EXCL: 0o200,
  O_NOCTTY: 0o400,
  O_TRUNC: 0o1000,
  O_APPEND: 0o2000,
  O_NONBLOCK: 0o4000,
  O_DIRECTORY: 0o200000,
  O_NOFOLLOW: 0o400000,
  O_CLOEXEC: 0o2000000,
  O_PATH: 0o10000000,
  /** __O_TMPFILE with O_DIRECTORY, as open(2) wants it. */
  O_TMPFILE: 0o20200000,
  RENAME_NOREPLACE: 1,
  RENAME_EXCHANGE: 2,
  AT_REMOVEDIR: 0x200,
  AT_FDCWD: -100,
} as const;

const RESOLVE_NO_MAGICLINKS = 0x02;
const RESOLVE_NO_SYMLINKS = 0x04;
const RESOLVE_BENEATH = 0x08;
const RESOLVE_NO_XDEV = 0x01;

const AT_SYMLINK_NOFOLLOW = 0x100;
const UTIME_OMIT = 0x3ffffffen;
const PATH_MAX = 4096;
const EINVAL = 22;
const ENAMETOOLONG = 36;

/** Text is taken as UTF-8; bytes are for names that are not. */
export type Path = string | Uint8Array;

/**
 * Opens `path` inside the directory `dirFd`; the kernel itself refuses (EXDEV) whatever would lead out of it: `..`, an
 * absolute path, a symlink, a magic link, also one that is swapped in during the call. O_CLOEXEC always.
 * `noSymlinks` refuses any symlink on the way (ELOOP), `noMounts` any other file system (EXDEV).
 * EAGAIN (a rename raced with a `..` inside) is tried again a few times.
 */
export function openBeneath(
  dirFd: number,
  path: Path,
  flags: number,
  mode = 0,
  options: { noSymlinks?: boolean; noMounts?: boolean } = {},
): number {
  const address = pathBuffer(0, path);
  how[0] = BigInt(flags | constants.O_CLOEXEC);
  // The kernel refuses a mode where nothing is created.
  how[1] = BigInt(flags & (constants.O_CREAT | 0o20000000) ? mode : 0);
  how[2] = BigInt(
    RESOLVE_BENEATH |
      RESOLVE_NO_MAGICLINKS |
      (options.noSymlinks === true ? RESOLVE_NO_SYMLINKS : 0) |
      (options.noMounts === true ? RESOLVE_NO_XDEV : 0),
  );
  for (let attempt = 1; ; attempt++) {
    try {
      return syscall("openat2", NR.openat2, dirFd, address, how, HOW_BYTES);
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
      if (error.code === "EINTR" || (error.code === "EAGAIN" && attempt < 8)) continue;
      throw error;
    }
  }
}

/**
 * The directory above an open one. That is wherever it lies by now: ask the descriptor which directory it is before
 * relying on it.
 */
export function openParent(dirFd: number, flags: number): number {
  const address = pathBuffer(0, "..");
  how[0] = BigInt(flags | constants.O_CLOEXEC);
  how[1] = 0n;
  how[2] = BigInt(RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
  return syscall("openat2", NR.openat2, dirFd, address, how, HOW_BYTES);
}

export function closeFd(fd: number): void {
  syscall("close", NR.close, fd);
}

/**
 * The names of the calls below are one component each, so the kernel follows nothing: a slash in one is refused, and
 * `.` and `..` too.
 */
export function renameAt(oldDir: number, oldName: Path, newDir: number, newName: Path, flags = 0): void {
  const from = nameBuffer(0, oldName);
  const to = nameBuffer(1, newName);
  syscall("renameat2", NR.renameat2, oldDir, from, newDir, to, flags);
}

/** `flags`: AT_REMOVEDIR for a directory. */
export function unlinkAt(dirFd: number, name: Path, flags = 0): void {
  syscall("unlinkat", NR.unlinkat, dirFd, nameBuffer(0, name), flags);
}

export function mkdirAt(dirFd: number, name: Path, mode: number): void {
  syscall("mkdirat", NR.mkdirat, dirFd, nameBuffer(0, name), mode);
}

/** A symlink. Its text is taken as it is. */
export function symlinkAt(text: Path, dirFd: number, name: Path): void {
  syscall("symlinkat", NR.symlinkat, pathBuffer(0, text), dirFd, nameBuffer(1, name));
}

/** Another name for the entry `oldName` itself, also where that is a symlink. */
export function linkAt(oldDir: number, oldName: Path, newDir: number, newName: Path): void {
  const from = nameBuffer(0, oldName);
  syscall("linkat", NR.linkat, oldDir, from, newDir, nameBuffer(1, newName), 0);
}

/** Of a symlink itself, which has no descriptor to do it by. */
export function chownLinkAt(dirFd: number, name: Path, uid: number, gid: number): void {
  syscall("fchownat", NR.fchownat, dirFd, nameBuffer(0, name), uid, gid, AT_SYMLINK_NOFOLLOW);
}

/** When the content changed last; the time of the last access stays. Of an open file, or of the entry `name` itself. */
export function setModified(
  fd: number,
  [seconds, nanoseconds]: readonly [seconds: number, nanoseconds: number],
  name: Path | null = null,
): void {
  times[1] = UTIME_OMIT;
  times[2] = BigInt(seconds);
  times[3] = BigInt(nanoseconds);
  if (name === null) syscall("utimensat", NR.utimensat, fd, 0, times, 0);
  else syscall("utimensat", NR.utimensat, fd, nameBuffer(0, name), times, AT_SYMLINK_NOFOLLOW);
}

export function fchownFd(fd: number, uid: number, gid: number): void {
  syscall("fchown", NR.fchown, fd, uid, gid);
}

export function fchmodFd(fd: number, mode: number): void {
  syscall("fchmod", NR.fchmod, fd, mode);
}

// All calls here are synchronous and none calls another, so one buffer per argument serves them all without
// allocating. Uint8Array over a given ArrayBuffer: such memory never moves.
const encoder = new TextEncoder();
const buffers = [
  new Uint8Array(new ArrayBuffer(PATH_MAX + 1)),
  new Uint8Array(new ArrayBuffer(PATH_MAX + 1)),
] as const;
const HOW_BYTES = 24;
const how = new BigUint64Array(new ArrayBuffer(HOW_BYTES));
/** Two struct timespec: of the access, and of the change. */
const times = new BigInt64Array(new ArrayBuffer(32));

function pathBuffer(index: 0 | 1, path: Path): Uint8Array {
  const buffer = buffers[index];
  if (path.length === 0 || (typeof path === "string" ? path.includes("\0") : path.includes(0))) {
    throw new KernelError("path empty or with NUL", EINVAL);
  }
  if (typeof path === "string") {
    const { read, written } = encoder.encodeInto(path, buffer);
    if (read < path.length || written > PATH_MAX - 1) throw new KernelError("path too long", ENAMETOOLONG);
    buffer[written] = 0;
  } else {
    if (path.length > PATH_MAX - 1) throw new KernelError("path too long", ENAMETOOLONG);
    buffer.set(path);
    buffer[path.length] = 0;
  }
  return buffer;
}

const SLASH = 0x2f;

function nameBuffer(index: 0 | 1, name: Path): Uint8Array {
  const slash = typeof name === "string" ? name.includes("/") : name.includes(SLASH);
  const text = typeof name === "string" ? name : new TextDecoder().decode(name);
  if (slash || text === "." || text === "..") throw new KernelError("name is not one component", EINVAL);
  return pathBuffer(index, name);
}
