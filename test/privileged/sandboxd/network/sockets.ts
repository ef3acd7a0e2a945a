import { KernelError, NR, syscall } from "../../../../src/kernel/libc.ts";
import { withinNetwork } from "../../../../src/kernel/network-namespace.ts";
import { closeFd } from "../../../../src/kernel/openat2.ts";
import { describe, frame } from "./frames.ts";
import { sh } from "./stage.ts";

/** Sockets in other network namespaces: one stays where it was made, whoever uses it. */

const AF_INET = 2;
const AF_PACKET = 17;
const SOCK = { stream: 1, dgram: 2, raw: 3, nonBlocking: 0o4000 } as const;
const ETH_P_ALL = 0x0300; // in network order
const POLLOUT = 4;
const POLLIN = 1;

function address(host: string, port: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, AF_INET, true);
  view.setUint16(2, port);
  bytes.set(host.split(".").map(Number), 4);
  return bytes;
}

export interface Attempt extends Disposable {
  /** Whether it has come through by now. */
  arrived(): boolean;
}

/** A TCP connection from a namespace, or from the host's own, begun and not waited for. */
export function tcpFrom(netns: string | null, host: string, port: number): Attempt {
  let fd = -1;
  withinNetwork(netns === null ? "/proc/self/ns/net" : `/run/netns/${netns}`, () => {
    fd = syscall("socket", NR.socket, AF_INET, SOCK.stream | SOCK.nonBlocking, 0);
  });
  const to = address(host, port);
  try {
    syscall("connect", NR.connect, fd, to, to.length);
  } catch (error) {
    if (!(error instanceof KernelError && error.code === "EINPROGRESS")) throw error;
  }
  return { arrived: () => polled(fd, POLLOUT) === POLLOUT, [Symbol.dispose]: () => closeFd(fd) };
}

/** A datagram to a port that answers each one. */
export function udpFrom(netns: string, host: string, port: number): Attempt {
  let fd = -1;
  withinNetwork(`/run/netns/${netns}`, () => {
    fd = syscall("socket", NR.socket, AF_INET, SOCK.dgram | SOCK.nonBlocking, 0);
  });
  const to = address(host, port);
  syscall("sendto", NR.sendto, fd, new TextEncoder().encode("ask"), 3, 0, to, to.length);
  return { arrived: () => polled(fd, POLLIN) === POLLIN, [Symbol.dispose]: () => closeFd(fd) };
}

function polled(fd: number, events: number): number {
  const bytes = new DataView(new ArrayBuffer(8));
  bytes.setInt32(0, fd, true);
  bytes.setInt16(4, events, true);
  syscall("poll", NR.poll, bytes, 1, 0);
  return bytes.getInt16(6, true);
}

/** The wire of a run's inner end: raw frames both ways, as no tenant of gVisor's has them. */
export interface Wire extends Disposable {
  send(packet: Uint8Array): void;
  /** What has come in since the last look. */
  seen(): string[];
}

export function wireOf(netns: string, veth: string): Wire {
  const inner = linkOf(`-n ${netns}`, "eth0");
  const outer = linkOf("", veth);
  let fd = -1;
  withinNetwork(`/run/netns/${netns}`, () => {
    fd = syscall("socket", NR.socket, AF_PACKET, SOCK.raw | SOCK.nonBlocking, ETH_P_ALL);
  });
  const to = new DataView(new ArrayBuffer(20));
  to.setUint16(0, AF_PACKET, true);
  to.setUint16(2, ETH_P_ALL, true);
  to.setInt32(4, inner.index, true);
  const buffer = new Uint8Array(new ArrayBuffer(2048));
  return {
    send(packet) {
      const bytes = frame({ from: inner.mac, to: outer.mac }, packet);
      syscall("sendto", NR.sendto, fd, bytes, bytes.length, 0, to, to.byteLength);
    },
    seen() {
      const frames: string[] = [];
      while ((polled(fd, POLLIN) & POLLIN) !== 0) {
        const length = syscall("read", 0, fd, buffer, buffer.length);
        const hasComeIn = buffer.subarray(6, 12).toHex() === outer.mac.replaceAll(":", "");
        if (hasComeIn) frames.push(describe(buffer.slice(0, length)));
      }
      return frames;
    },
    [Symbol.dispose]: () => closeFd(fd),
  };
}

function linkOf(where: string, name: string): { index: number; mac: string } {
  const [index = "", mac = ""] = sh(
    `ip ${where} -o link show dev ${name} | sed -E 's/^([0-9]+):.*link.ether ([0-9a-f:]+).*/\\1 \\2/'`,
  ).split(" ");
  return { index: Number(index), mac };
}
