import { ptr } from "bun:ffi";
import { readdirSync } from "node:fs";
import { KernelError, NR, syscall } from "./libc.ts";
import { closeFd } from "./openat2.ts";

const SOL_SOCKET = 1;
const SO_REUSEPORT = 15;
const SO_ACCEPTCONN = 30;
const SO_ATTACH_REUSEPORT_CBPF = 51;
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
/** Classic BPF: return a constant. */
const BPF_RETURN = 0x06;

/** The descriptors of this process that take connections. */
export function listeningSockets(): Set<number> {
  const listening = readdirSync("/proc/self/fd").map(Number).filter(isListening);
  return new Set(listening);
}

function isListening(fd: number): boolean {
  const value = new Int32Array(new ArrayBuffer(4));
  const length = new Uint32Array(new ArrayBuffer(4));
  length[0] = value.byteLength;
  try {
    syscall("getsockopt SO_ACCEPTCONN", NR.getsockopt, fd, SOL_SOCKET, SO_ACCEPTCONN, value, length);
  } catch (error) {
    // Not a socket, or closed since it was listed.
    if (error instanceof KernelError && (error.code === "ENOTSOCK" || error.code === "EBADF")) return false;
    throw error;
  }
  return value[0] === 1;
}

/** From now on another socket of this user may listen at the same address, if it asks to share it. */
export function shareAddress(fd: number): void {
  const one = new Int32Array(new ArrayBuffer(4));
  one[0] = 1;
  syscall("setsockopt SO_REUSEPORT", NR.setsockopt, fd, SOL_SOCKET, SO_REUSEPORT, one, one.byteLength);
}

/**
 * Of the sockets that share an address, the one that began to listen as the `index`th of those still there gets every
 * new connection. What was on its way to another still arrives there.
 */
export function steerConnections(fd: number, index: number): void {
  const code = new DataView(new ArrayBuffer(8));
  code.setUint16(0, BPF_RETURN, true);
  code.setUint32(4, index, true);
  const program = new DataView(new ArrayBuffer(16));
  program.setUint16(0, 1, true);
  program.setBigUint64(8, BigInt(ptr(code)), true);
  syscall(
    "setsockopt SO_ATTACH_REUSEPORT_CBPF",
    NR.setsockopt,
    fd,
    SOL_SOCKET,
    SO_ATTACH_REUSEPORT_CBPF,
    program,
    program.byteLength,
  );
}

/**
 * Ends a listening socket and leaves one that does nothing under its number: for an owner who would close with it the
 * connections that came by it, and who closes the number itself later.
 */
export function vacateListening(fd: number): void {
  const idle = syscall("socket", NR.socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  try {
    syscall("dup2", NR.dup2, idle, fd);
  } finally {
    closeFd(idle);
  }
}
