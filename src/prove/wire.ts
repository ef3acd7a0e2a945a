import { KernelError, NR, syscall } from "../kernel/libc.ts";
import { withinNetwork } from "../kernel/network-namespace.ts";
import { closeFd } from "../kernel/openat2.ts";
import { NETNS_DIR } from "../sandboxd/network/names.ts";
import { describe, frame } from "./frames.ts";

const AF_PACKET = 17;
const RAW_NON_BLOCKING = 3 | 0o4000;
const ETH_P_ALL = 0x0300; // in network order
const SIOCGIFHWADDR = 0x8927;
const SIOCGIFINDEX = 0x8933;
const MAX_FRAME = 2048;

/** The inner end of a pair that leads to the host: raw frames both ways, as no tenant of gVisor's has them. */
export interface Wire extends Disposable {
  /** To the host's end. */
  send(packet: Uint8Array): void;
  /** What has come in since the last look. */
  seen(): string[];
}

/** The socket stays in the namespace in which it was made, whoever uses it. */
export function wireOf(netns: string, veth: string): Wire {
  const outer = linkOf(packetSocket(), veth);
  let fd = -1;
  withinNetwork(`${NETNS_DIR}/${netns}`, () => (fd = packetSocket()));
  const inner = linkOf(fd, "eth0", { keep: true });
  const to = new DataView(new ArrayBuffer(20));
  to.setUint16(0, AF_PACKET, true);
  to.setUint16(2, ETH_P_ALL, true);
  to.setInt32(4, inner.index, true);
  syscall("bind", NR.bind, fd, to, to.byteLength);
  const buffer = new Uint8Array(new ArrayBuffer(MAX_FRAME));

  return {
    send(packet) {
      const bytes = frame({ from: inner.mac, to: outer.mac }, packet);
      syscall("sendto", NR.sendto, fd, bytes, bytes.length, 0, to, to.byteLength);
    },
    seen() {
      const frames: string[] = [];
      for (let length = read(fd, buffer); length !== null; length = read(fd, buffer)) {
        if (buffer.subarray(6, 12).toHex() === outer.mac.toHex())
          frames.push(describe(buffer.slice(0, length)));
      }
      return frames;
    },
    [Symbol.dispose]: () => closeFd(fd),
  };
}

function packetSocket(): number {
  return syscall("socket", NR.socket, AF_PACKET, RAW_NON_BLOCKING, ETH_P_ALL);
}

function read(fd: number, into: Uint8Array): number | null {
  try {
    return syscall("read", NR.read, fd, into, into.length);
  } catch (error) {
    if (error instanceof KernelError && error.code === "EAGAIN") return null;
    throw error;
  }
}

function linkOf(fd: number, name: string, { keep } = { keep: false }) {
  const request = new Uint8Array(new ArrayBuffer(40));
  const asked = (call: number) => {
    request.fill(0);
    request.set(new TextEncoder().encode(name));
    syscall("ioctl", NR.ioctl, fd, call, request, 0, 0, 0, name);
    return new DataView(request.buffer, 16);
  };
  try {
    const index = asked(SIOCGIFINDEX).getInt32(0, true);
    asked(SIOCGIFHWADDR);
    return { index, mac: request.slice(18, 24) };
  } finally {
    if (!keep) closeFd(fd);
  }
}
