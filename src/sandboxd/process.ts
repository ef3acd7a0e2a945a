import { setTimeout as sleep } from "node:timers/promises";
import { hasEnded, statOf, unlessGone } from "../kernel/process.ts";

/** A process told apart from a later one with the same number: the start time is in clock ticks since boot. */
export interface ProcessIdentity {
  readonly pid: number;
  readonly startTime: number;
}

export function identify(pid: number): ProcessIdentity | undefined {
  const stat = unlessGone(() => statOf(pid));
  return stat === undefined ? undefined : { pid, startTime: stat.startTime };
}

export function isAlive({ pid, startTime }: ProcessIdentity): boolean {
  const stat = unlessGone(() => statOf(pid));
  return stat !== undefined && stat.startTime === startTime && !hasEnded(stat);
}

export function killProcess(identity: ProcessIdentity): void {
  if (isAlive(identity)) signalPid(identity.pid);
}

/** SIGKILL to a process that may be gone by now. */
export function signalPid(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/**
 * Resolves when a process that is not our child has ended: the kernel tells only parents, so it is looked for. Without
 * `ref`, the wait does not keep this process from ending.
 */
export async function whenGone(
  identity: ProcessIdentity,
  everyMs: number,
  { ref } = { ref: true },
): Promise<void> {
  while (isAlive(identity)) await sleep(everyMs, undefined, { ref });
}
