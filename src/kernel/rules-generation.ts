import { constants as os } from "node:os";
import { KernelError, NR, syscall } from "./libc.ts";
import { closeFd } from "./openat2.ts";

const AF_NETLINK = 16;
const SOCK = { raw: 3, nonBlocking: 0o4000, closeOnExec: 0o2000000 } as const;
const NETLINK_NETFILTER = 12;
/** linux/netfilter/nfnetlink.h and nf_tables.h: the subsystem in the upper byte, the message in the lower. */
const GET_GENERATION = (10 << 8) | 16;
const NEW_GENERATION = (10 << 8) | 15;
const NLM_F_REQUEST = 1;
/** struct nlmsghdr and nfgenmsg, behind which an answer's one attribute has its number, big-endian. */
const REQUEST_BYTES = 20;
const NUMBER_AT = 24;

/**
 * The number that the kernel raises with every change of this network namespace's nftables, whoever makes it and by
 * whichever program: iptables-nft, nft, firewalld. null where the kernel has none. It takes some microseconds, so it can be
 * asked for often, and programs be started only when it has changed.
 */
export function rulesGeneration(): number | null {
  let fd: number;
  try {
    const type = SOCK.raw | SOCK.nonBlocking | SOCK.closeOnExec;
    fd = syscall("socket", NR.socket, AF_NETLINK, type, NETLINK_NETFILTER);
  } catch (error) {
    if (error instanceof KernelError && error.errno === os.errno.EPROTONOSUPPORT) return null;
    throw error;
  }
  try {
    const request = new DataView(new ArrayBuffer(REQUEST_BYTES));
    request.setUint32(0, REQUEST_BYTES, true);
    request.setUint16(4, GET_GENERATION, true);
    request.setUint16(6, NLM_F_REQUEST, true);
    syscall("sendto", NR.sendto, fd, request, REQUEST_BYTES);
    const answer = new DataView(new ArrayBuffer(256));
    const length = syscall("recvfrom", NR.recvfrom, fd, answer, answer.byteLength);
    const isNumber = length >= NUMBER_AT + 4 && answer.getUint16(4, true) === NEW_GENERATION;
    // Else an error's: no such subsystem, say.
    return isNumber ? answer.getUint32(NUMBER_AT, false) : null;
  } finally {
    closeFd(fd);
  }
}
