import { cString, KernelError, NR, syscall } from "./libc.ts";
import { closeFd } from "./openat2.ts";

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const FIONBIO = 0x5421;
const MSG_NOSIGNAL = 0x4000;
const SUN_PATH_MAX = 108;
const EINTR = 4;
const ENAMETOOLONG = 36;

/**
 * A connected stream socket as a bare descriptor (close-on-exec, blocking), to be given to a child. Never waits: where
 * the listener's backlog is full it throws EAGAIN, since who listens may be hostile and must not stop us.
 */
export function connectUnix(path: string): number {
  const address = socketAddress(path);
  const fd = syscall("socket", NR.socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  try {
    retryInterrupted(() => syscall("connect", NR.connect, fd, address, address.length, 0, 0, 0, path));
    syscall("ioctl FIONBIO", NR.ioctl, fd, FIONBIO, new Int32Array(new ArrayBuffer(4)));
  } catch (error) {
    closeFd(fd);
    throw error;
  }
  return fd;
}

/** Two connected stream sockets, close-on-exec, as bare descriptors: one to keep, one to give to a child. */
export function socketPair(): [number, number] {
  const pair = new Int32Array(new ArrayBuffer(8));
  syscall("socketpair", NR.socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
  const [ours = -1, theirs = -1] = pair;
  return [ours, theirs];
}

/** One datagram to a unix socket; `path` with a leading `@` is an abstract address. */
export function sendDatagram(path: string, message: string): void {
  const address = socketAddress(path);
  const bytes = new TextEncoder().encode(message);
  const fd = syscall("socket", NR.socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  try {
    retryInterrupted(() =>
      syscall("sendto", NR.sendto, fd, bytes, bytes.length, MSG_NOSIGNAL, address, address.length, path),
    );
  } finally {
    closeFd(fd);
  }
}

function socketAddress(path: string): Uint8Array {
  const name = cString(path);
  if (name.length > SUN_PATH_MAX) throw new KernelError("socket path too long", ENAMETOOLONG, path);
  const abstract = path.startsWith("@");
  // An abstract name starts with a NUL and ends with the address: its own closing NUL would be part of it.
  const address = new Uint8Array(2 + name.length - (abstract ? 1 : 0));
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(abstract ? name.subarray(0, -1) : name, 2);
  if (abstract) address[2] = 0;
  return address;
}

function retryInterrupted(call: () => number): number {
  for (;;) {
    try {
      return call();
    } catch (error) {
      if (!(error instanceof KernelError) || error.errno !== EINTR) throw error;
    }
  }
}
