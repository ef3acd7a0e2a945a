import { dlopen, FFIType, ptr, read } from "bun:ffi";
import { constants as os } from "node:os";

/** A system call that the kernel refused. `code` is the errno's name ("ENOENT"), `call` what was tried. */
export class KernelError extends Error {
  readonly call: string;
  readonly errno: number;
  readonly code: string;

  constructor(call: string, errno: number, on?: string) {
    const code = errnoNames.get(errno) ?? `E${errno}`;
    super(on === undefined ? `${call}: ${code}` : `${call} ${JSON.stringify(on)}: ${code}`);
    this.name = "KernelError";
    this.call = call;
    this.errno = errno;
    this.code = code;
  }
}

/** Where one number has two names the first one counts: EAGAIN, not EWOULDBLOCK. */
const errnoNames = new Map(
  [...Object.entries(os.errno), ["ENOKEY", 126] as const]
    .map(([name, number]) => [number, name] as const)
    .toReversed(),
);

/** A number, a bigint, or memory: an array's address stays valid for the call since the caller holds the array. */
export type Argument = number | bigint | NodeJS.TypedArray | DataView;

type Register = number | bigint;
/** The first call loads libc; the descriptors and numbers are the same for the whole life of the process. */
function once<T>(make: () => T): () => T {
  const slot: { value?: T } = {};
  return () => (slot.value ??= make());
}

const libc = once(() => {
  const { i64, i64_fast, ptr: pointer } = FFIType;
  const { symbols } = dlopen("libc.so.6", {
    syscall: { args: [i64, i64, i64, i64, i64, i64, i64], returns: i64_fast },
    __errno_location: { args: [], returns: pointer },
  });
  const errnoAddress = symbols.__errno_location();
  if (errnoAddress === null) throw new Error("libc has no errno");
  return {
    syscall: symbols.syscall,
    // Read before anything else can run on this thread.
    errno: () => read.i32(errnoAddress, 0),
  };
});

/**
 * syscall(2), every argument as one register. It acts on the calling thread only: what libc spreads over all threads
 * (setuid and the like) is not spread here, so such calls are for just before an execve.
 * Throws KernelError; `call` and `on` (a path, say) are for its message. Never give it a number over 2^53.
 */
export function syscall(
  call: string,
  nr: number,
  a: Argument = 0,
  b: Argument = 0,
  c: Argument = 0,
  d: Argument = 0,
  e: Argument = 0,
  f: Argument = 0,
  on?: string,
): number {
  const { syscall, errno } = libc();
  const result = syscall(nr, register(a), register(b), register(c), register(d), register(e), register(f));
  if (result === -1) throw new KernelError(call, errno(), on);
  return Number(result);
}

function register(argument: Argument): Register {
  if (typeof argument === "number" || typeof argument === "bigint") return argument;
  return ptr(argument);
}

/** A C string. Text with a NUL is refused: the kernel would silently see only what stands before it. */
export function cString(text: string | Uint8Array): Uint8Array {
  if (typeof text === "string") {
    if (text.includes("\0")) throw new KernelError("string with NUL", os.errno.EINVAL);
    return encoder.encode(`${text}\0`);
  }
  if (text.includes(0)) throw new KernelError("string with NUL", os.errno.EINVAL);
  const bytes = new Uint8Array(text.length + 1);
  bytes.set(text);
  return bytes;
}

const encoder = new TextEncoder();

/** The numbers of x86-64, the one architecture there is a build for. */
export const NR = {
  read: 0,
  write: 1,
  close: 3,
  poll: 7,
  lseek: 8,
  ioctl: 16,
  dup2: 33,
  socket: 41,
  connect: 42,
  sendto: 44,
  recvfrom: 45,
  shutdown: 48,
  bind: 49,
  getsockname: 51,
  getpeername: 52,
  socketpair: 53,
  setsockopt: 54,
  getsockopt: 55,
  execve: 59,
  fcntl: 72,
  flock: 73,
  fsync: 74,
  chdir: 80,
  fchmod: 91,
  fchown: 93,
  umask: 95,
  getuid: 102,
  setgroups: 116,
  setresuid: 117,
  setresgid: 119,
  capget: 125,
  capset: 126,
  statfs: 137,
  fstatfs: 138,
  pivot_root: 155,
  prctl: 157,
  mount: 165,
  umount2: 166,
  getdents64: 217,
  epoll_wait: 232,
  epoll_ctl: 233,
  inotify_add_watch: 254,
  inotify_rm_watch: 255,
  openat: 257,
  mkdirat: 258,
  newfstatat: 262,
  mknodat: 259,
  fchownat: 260,
  unlinkat: 263,
  linkat: 265,
  symlinkat: 266,
  readlinkat: 267,
  unshare: 272,
  splice: 275,
  utimensat: 280,
  epoll_create1: 291,
  inotify_init1: 294,
  setns: 308,
  renameat2: 316,
  seccomp: 317,
  preadv2: 327,
  statx: 332,
  open_tree: 428,
  move_mount: 429,
  fsopen: 430,
  fsconfig: 431,
  fsmount: 432,
  close_range: 436,
  openat2: 437,
  mount_setattr: 442,
  landlock_create_ruleset: 444,
  landlock_add_rule: 445,
  landlock_restrict_self: 446,
} as const;
