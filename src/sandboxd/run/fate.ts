import { setTimeout as sleep } from "node:timers/promises";
import type { RunFate } from "../../protocol/sandboxd.ts";
import type { Cgroups } from "../cgroup.ts";
import { isAlive, killProcess, signalPid } from "../process.ts";
import type { RunSandbox } from "./boot.ts";
import { complaint, exitStatus, killRunsc, waitsForRunsc } from "./shim.ts";

const KILL_TIMEOUT_MS = 5_000;
const WRITE_DOWN_MS = 1_000;
const POLL_MS = 2;

/** Whether runsc has ended, or nobody waits for it any more. */
export function isOver({ names, record }: RunSandbox): boolean {
  return exitStatus(names) !== undefined || !waitsForRunsc(record.process);
}

/** Kills a run's sandbox, if it still runs; resolves when its shim has written down that it ended, or can't. */
export async function killSandbox(cgroups: Cgroups, { names, record }: RunSandbox): Promise<void> {
  if (exitStatus(names) !== undefined) return;
  const end = Date.now() + KILL_TIMEOUT_MS;
  do {
    // runsc too, which would take its time to see that sandbox and gofer are gone, or hang.
    killRunsc(record.process);
    for (const pid of cgroups.processes(names.cgroup)) if (pid > 0) signalPid(pid);
    if (await whenWrittenDown({ names, record }, WRITE_DOWN_MS)) return;
  } while (Date.now() < end);
  killProcess(record.process);
}

/** Between runsc's end and its status in a file lies a moment; a shim that was killed, or whose disk is full, has none. */
async function whenWrittenDown({ names, record }: RunSandbox, timeoutMs: number): Promise<boolean> {
  const end = Date.now() + timeoutMs;
  for (;;) {
    if (exitStatus(names) !== undefined || !isAlive(record.process)) return true;
    if (Date.now() > end) return false;
    await sleep(POLL_MS);
  }
}

/** What became of a sandbox that is over; before its cgroup is removed. */
export async function fateOf(cgroups: Cgroups, sandbox: RunSandbox): Promise<RunFate> {
  const { names, record } = sandbox;
  await whenWrittenDown(sandbox, WRITE_DOWN_MS);
  const end = judge({
    status: exitStatus(names),
    said: complaint(names),
    outOfMemory: cgroups.oomKilled(names.cgroup),
    ending: record.ending,
  });
  return {
    ...end,
    ended_at: Date.now(),
    peak_memory_bytes: cgroups.peakMemoryBytes(names.cgroup),
    cpu_ms: cgroups.cpuMs(names.cgroup),
  };
}

export interface Traces {
  /** What runsc ended with; undefined when that was not written down. */
  readonly status: number | undefined;
  /** What runsc and the init said. */
  readonly said: string;
  readonly outOfMemory: boolean;
  readonly ending: "stopped" | "timeout" | null;
}

/** An exit is what the init said of the command, since runsc's own status is the same for a sandbox that was killed. */
export function judge({ status, said, outOfMemory, ending }: Traces) {
  const lines = said.split("\n");
  const exited = lines.map((line) => /^exit (\d+)$/.exec(line)?.[1]).find((code) => code !== undefined);
  // Also when it was to be killed a moment later. One that a signal ended may be what is left of it without memory.
  const killed = Number(exited) > 128;
  if (exited !== undefined && !(outOfMemory && killed))
    return { exit_code: Number(exited), cause: "exit" as const, fault: null };
  if (ending !== null) return { exit_code: null, cause: ending, fault: null };
  if (outOfMemory) return { exit_code: null, cause: "oom" as const, fault: null };
  const fault =
    status === undefined
      ? "the process that waited for its sandbox was killed"
      : `its sandbox or runsc was killed (exit status ${status}${said === "" ? "" : `: ${lines.at(-1) ?? ""}`})`;
  return { exit_code: null, cause: "lost" as const, fault };
}
