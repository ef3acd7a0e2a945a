import { readdirSync } from "node:fs";
import { KernelError, NR, syscall } from "./libc.ts";
import { listeningSockets } from "./listening.ts";

const AF_INET = 2;
const AF_INET6 = 10;
const SHUT_RDWR = 2;
/** struct sockaddr_in6, the longer one. */
const ADDRESS_BYTES = 28;

/** One that a client made to this process. */
interface Connection {
  readonly fd: number;
  /** The client's. */
  readonly address: string;
}

/** Of every network socket that listens here. What this process connects to itself has local ports of its own. */
export function connections(): Connection[] {
  const listening = listeningSockets();
  const ports = new Set([...listening].map((fd) => ask("getsockname", fd)?.port));
  return readdirSync("/proc/self/fd").flatMap((name) => {
    const fd = Number(name);
    const local = listening.has(fd) ? undefined : ask("getsockname", fd);
    if (local === undefined || !ports.has(local.port)) return [];
    const peer = ask("getpeername", fd);
    return peer === undefined ? [] : [{ fd, address: peer.address }];
  });
}

/** Its owner sees it end as if the client had ended it. */
export function endConnection(fd: number): void {
  orNothing(() => syscall("shutdown", NR.shutdown, fd, SHUT_RDWR));
}

const memory = new Uint8Array(new ArrayBuffer(ADDRESS_BYTES));
const view = new DataView(memory.buffer);
const length = new Uint32Array(new ArrayBuffer(4));

/** undefined for what is no network socket, is not connected, or was closed since it was listed. */
function ask(call: "getsockname" | "getpeername", fd: number): { port: number; address: string } | undefined {
  length[0] = ADDRESS_BYTES;
  if (orNothing(() => syscall(call, NR[call], fd, memory, length)) === undefined) return undefined;
  const family = view.getUint16(0, true);
  if (family !== AF_INET && family !== AF_INET6) return undefined;
  const port = view.getUint16(2);
  return { port, address: family === AF_INET ? memory.slice(4, 8).join(".") : v6Address() };
}

function v6Address(): string {
  const groups = Array.from({ length: 8 }, (_, at) => view.getUint16(8 + 2 * at));
  const isMapped = groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff;
  return isMapped ? memory.slice(20, 24).join(".") : groups.map((group) => group.toString(16)).join(":");
}

const GONE: ReadonlySet<string> = new Set(["ENOTSOCK", "EBADF", "ENOTCONN", "EINVAL"]);

function orNothing<T>(call: () => T): T | undefined {
  try {
    return call();
  } catch (error) {
    if (error instanceof KernelError && GONE.has(error.code)) return undefined;
    throw error;
  }
}
