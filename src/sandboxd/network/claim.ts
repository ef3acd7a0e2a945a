import { closeSync, openSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { tryLock } from "../../kernel/flock.ts";

/** All instances' of this host: two of them must not look for each other's subnets at the same moment. */
const LOCK = "/run/cofferdam/networks.lock";
const LOOK_EVERY_MS = 10;
const PATIENCE_MS = 10_000;

export async function whileNoOtherClaims<T>(work: () => Promise<T>): Promise<T> {
  const fd = openSync(LOCK, "a", 0o600);
  try {
    const deadline = performance.now() + PATIENCE_MS;
    while (!tryLock(fd, "exclusive")) {
      if (performance.now() > deadline) throw new Error(`${LOCK} is held by another instance`);
      await sleep(LOOK_EVERY_MS);
    }
    return await work();
  } finally {
    closeSync(fd);
  }
}
