import { constants as os } from "node:os";
import { KernelError, NR, syscall } from "./libc.ts";
import { closeFd } from "./openat2.ts";

const AF_INET = 2;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const IFF_UP = 1;
/** struct ifreq: the name, then a union of which the flags are the first two bytes. */
const IFREQ_BYTES = 40;
const NAME_BYTES = 16;

/**
 * Turns network interfaces of this namespace on or off, which takes some microseconds each and no program that could hang
 * or be missing. Those that are gone are passed over.
 */
export function setInterfaces(names: readonly string[], state: "up" | "down"): void {
  const fd = syscall("socket", NR.socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC);
  try {
    for (const name of names) setInterface(fd, name, state);
  } finally {
    closeFd(fd);
  }
}

function setInterface(fd: number, name: string, state: "up" | "down"): void {
  const request = new Uint8Array(IFREQ_BYTES);
  new TextEncoder().encodeInto(name, request.subarray(0, NAME_BYTES - 1));
  const view = new DataView(request.buffer);
  try {
    syscall("SIOCGIFFLAGS", NR.ioctl, fd, SIOCGIFFLAGS, request, 0, 0, 0, name);
    const before = view.getInt16(NAME_BYTES, true);
    const after = state === "up" ? before | IFF_UP : before & ~IFF_UP;
    if (after === before) return;
    view.setInt16(NAME_BYTES, after, true);
    syscall("SIOCSIFFLAGS", NR.ioctl, fd, SIOCSIFFLAGS, request, 0, 0, 0, name);
  } catch (error) {
    if (!(error instanceof KernelError && error.errno === os.errno.ENODEV)) throw error;
  }
}
