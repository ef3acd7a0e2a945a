import { constants as os } from "node:os";
import { KernelError, NR, syscall } from "../kernel/libc.ts";
import { closeFd } from "../kernel/openat2.ts";
import { SocketFamily } from "../kernel/seccomp.ts";
import { parseAddress } from "./ranges.ts";

const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0x80000;
/** Discard; nothing is sent. */
const PORT = 9;
/** No way leads there, so it is not this host. */
const NO_ROUTE = new Set(["ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "EACCES", "EINVAL"]);

/**
 * Whether the kernel would deliver to this host itself what is sent to the address: for such a one, and for no other, it
 * takes the address as the source, too. It knows what no list of interfaces does, and a confined role, which may not ask
 * for that list (it takes a netlink socket), can ask this.
 */
export function isOwnAddress(text: string): boolean {
  const bytes = parseAddress(text)?.toByteArray();
  if (bytes === undefined) throw new Error(`${JSON.stringify(text)} is not an IP address`);
  const [family, offset, length] =
    bytes.length === 4 ? [SocketFamily.inet, 4, 16] : [SocketFamily.inet6, 8, 28];
  const there = new Uint8Array(length);
  there[0] = family;
  there[3] = PORT;
  there.set(bytes, offset);

  const fd = openSocket(family);
  if (fd === null) return false;
  try {
    syscall("connect", NR.connect, fd, there, there.length);
    const here = new Uint8Array(there.length);
    syscall("getsockname", NR.getsockname, fd, here, new Uint32Array([here.length]));
    return bytes.every((byte, at) => here[offset + at] === byte);
  } catch (error) {
    if (error instanceof KernelError && NO_ROUTE.has(error.code)) return false;
    throw error;
  } finally {
    closeFd(fd);
  }
}

function openSocket(family: SocketFamily): number | null {
  try {
    return syscall("socket", NR.socket, family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  } catch (error) {
    // A kernel without IPv6 has no such address either.
    if (error instanceof KernelError && error.errno === os.errno.EAFNOSUPPORT) return null;
    throw error;
  }
}
