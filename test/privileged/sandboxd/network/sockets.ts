import { KernelError, NR, syscall } from "../../../../src/kernel/libc.ts";
import { withinNetwork } from "../../../../src/kernel/network-namespace.ts";
import { closeFd } from "../../../../src/kernel/openat2.ts";

/** Sockets in other network namespaces: one stays where it was made, whoever uses it. */

const AF_INET = 2;
const SOCK = { stream: 1, dgram: 2, nonBlocking: 0o4000 } as const;
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

export interface TcpAttempt extends Attempt {
  /** Once it has come through. */
  send(text: string): void;
}

/** A TCP connection from a namespace, or from the host's own, begun and not waited for. */
export function tcpFrom(netns: string | null, host: string, port: number): TcpAttempt {
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
  return {
    arrived: () => polled(fd, POLLOUT) === POLLOUT,
    send: (text) => void syscall("sendto", NR.sendto, fd, new TextEncoder().encode(text), text.length),
    [Symbol.dispose]: () => closeFd(fd),
  };
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
