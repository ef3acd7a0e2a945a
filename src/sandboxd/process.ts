import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

/** A process told apart from a later one with the same number: the start time is in clock ticks since boot. */
export interface ProcessIdentity {
  readonly pid: number;
  readonly startTime: number;
}

interface Stat {
  readonly state: string;
  readonly startTime: number;
}

/** All processes that there are. */
export function pids(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** What /proc says of one; undefined when it is gone. */
export function procText(pid: number, name: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${name}`, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH") return undefined;
    throw error;
  }
}

function readStat(pid: number): Stat | undefined {
  const text = procText(pid, "stat");
  if (text === undefined) return undefined;
  // The second field is the program's name in parentheses and may hold anything, so count from its end.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0] ?? "", startTime: Number(fields[19]) };
}

export function identify(pid: number): ProcessIdentity | undefined {
  const stat = readStat(pid);
  return stat === undefined ? undefined : { pid, startTime: stat.startTime };
}

/** A zombie counts as gone: it runs nothing and holds nothing. */
export function isAlive({ pid, startTime }: ProcessIdentity): boolean {
  const stat = readStat(pid);
  return stat !== undefined && stat.startTime === startTime && stat.state !== "Z" && stat.state !== "X";
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
