import { setTimeout as sleep } from "node:timers/promises";
import type { Cgroups } from "./cgroup.ts";
import { OperationError } from "./failure.ts";

/** What waits for a disk stops when the disk has answered. */
const WAIT_MS = 2_000;

/**
 * Makes all processes of a group stand still: of a sandbox its kernel, the processes that run its programs, and what
 * serves its files, none of which can refuse. Throws when they don't in time; the caller thaws then.
 */
export async function freeze(
  cgroups: Pick<Cgroups, "canFreeze" | "freeze" | "standsStill">,
  path: string,
): Promise<void> {
  if (!cgroups.canFreeze()) {
    throw new OperationError(
      "unavailable",
      "this host has no cgroup freezer, so that commands can't be paused for a snapshot",
    );
  }
  cgroups.freeze(path);
  for (const deadline = Date.now() + WAIT_MS; !cgroups.standsStill(path);) {
    if (Date.now() > deadline) {
      throw new OperationError("unavailable", `the processes of cgroup ${path} do not stand still`);
    }
    await sleep(1);
  }
}
