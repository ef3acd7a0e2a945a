import { closeSync, openSync } from "node:fs";
import { NR, syscall } from "./libc.ts";

const CLONE_NEWNET = 0x40000000;

/**
 * Does something in another network namespace, by a path such as /run/netns/NAME: /proc/sys/net is that namespace's
 * meanwhile. It is this thread that goes there, so `act` is one synchronous piece that starts no program.
 */
export function withinNetwork(path: string, act: () => void): void {
  const own = openSync("/proc/thread-self/ns/net", "r");
  try {
    const other = openSync(path, "r");
    try {
      syscall("setns", NR.setns, other, CLONE_NEWNET, 0, 0, 0, 0, path);
    } finally {
      closeSync(other);
    }
    try {
      act();
    } finally {
      comeBack(own);
    }
  } finally {
    closeSync(own);
  }
}

/** A process that can't would go on with a tenant's network as its own. */
function comeBack(own: number): void {
  try {
    syscall("setns", NR.setns, own, CLONE_NEWNET);
  } catch {
    process.abort();
  }
}
