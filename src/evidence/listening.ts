import { readFileSync } from "node:fs";
import { procText, statusOf } from "../kernel/process.ts";
import { processFacts, holderOf, isDumpable, type ProcessFacts } from "./process.ts";

const LISTEN = "0A";

export interface Listener {
  readonly address: string;
  readonly port: number;
  readonly uid: number;
  readonly inode: string;
}

/** Who listens for TCP at an address of this host, by the kernel's own table. */
export function listenerAt(
  address: string,
  port: number,
  table = readFileSync("/proc/self/net/tcp", "utf8"),
): Listener | undefined {
  const wanted = `${hexOf(address)}:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  for (const line of table.split("\n").slice(1)) {
    const [, local, , state, , , , uid, , inode] = line.trim().split(/\s+/);
    if (local === wanted && state === LISTEN) return { address, port, uid: Number(uid), inode: inode ?? "" };
  }
  return undefined;
}

/** The kernel shows addresses as numbers of the machine's own byte order. */
function hexOf(address: string): string {
  const bytes = address.split(".").map((part) => Number(part).toString(16).toUpperCase().padStart(2, "0"));
  return bytes.toReversed().join("");
}

export interface GatewayProcess extends ProcessFacts {
  /** Whether others of its user could read its memory, or get its core. */
  readonly dumpable: boolean;
  readonly core_limit: string;
  readonly swapped: string;
}

/** The process behind a listener. */
export function gatewayBehind({ inode, uid }: Listener): GatewayProcess {
  const pid = holderOf(inode);
  const facts = pid === undefined ? undefined : processFacts(pid);
  if (pid === undefined || facts === undefined) throw new Error("nobody holds the gateway's socket");
  return {
    ...facts,
    dumpable: isDumpable(pid, uid),
    core_limit: /^Max core file size\s+(\S+)/m.exec(procText(pid, "limits"))?.[1] ?? "",
    swapped: statusOf(pid).get("VmSwap") ?? "not told",
  };
}
