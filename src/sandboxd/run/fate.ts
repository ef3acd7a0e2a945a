import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { RunFate } from "../../protocol/sandboxd.ts";
import type { Cgroups } from "../cgroup.ts";
import { isAlive, killProcess } from "../process.ts";
import type { RunSandbox } from "./boot.ts";
import { complaint, exitStatus, killRunsc, waitsForRunsc } from "./shim.ts";

/** What util.Fatalf of runsc ends with; a command may, too. */
const RUNSC_FAILED = 128;
const KILL_TIMEOUT_MS = 5_000;
const WRITE_DOWN_MS = 1_000;
const POLL_MS = 2;

/** Whether runsc has ended, or nobody waits for it any more. */
export function isOver({ names, record }: RunSandbox): boolean {
  return exitStatus(names) !== undefined || !waitsForRunsc(record.process);
}

/** Kills a run's sandbox, if it still runs; resolves when its shim has written down how it ended, or can't. */
export async function killSandbox(cgroups: Cgroups, { names, record }: RunSandbox): Promise<void> {
  if (exitStatus(names) !== undefined) return;
  const started = Date.now();
  for (;;) {
    // Sandbox and gofer; runsc sees that and ends by itself, unless it hangs.
    for (const pid of cgroups.processes(names.cgroup)) if (pid > 0) kill(pid);
    if (await whenWrittenDown({ names, record }, WRITE_DOWN_MS)) return;
    killRunsc(record.process);
    if (Date.now() - started > KILL_TIMEOUT_MS) return killProcess(record.process);
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
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
    shimLives: isAlive(record.process),
    // runsc takes its state away when it ends by itself.
    stateLeft: existsSync(names.runscState),
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
  readonly status: number | undefined;
  /** What runsc said. It says nothing of a sandbox that ended by itself. */
  readonly said: string;
  readonly shimLives: boolean;
  readonly stateLeft: boolean;
  readonly outOfMemory: boolean;
  readonly ending: "stopped" | "timeout" | null;
}

export function judge(traces: Traces): Pick<RunFate, "exit_code" | "cause" | "fault"> {
  const { status, said, stateLeft, outOfMemory, ending } = traces;
  const failed = status === RUNSC_FAILED && said !== "";
  // Also when it was to be killed a moment later. 137 may be what is left of a command that had no memory.
  if (status !== undefined && !stateLeft && !failed && !(outOfMemory && status > RUNSC_FAILED))
    return { exit_code: status, cause: "exit", fault: null };
  if (ending !== null) return { exit_code: null, cause: ending, fault: null };
  if (outOfMemory) return { exit_code: null, cause: "oom", fault: null };
  return { exit_code: null, cause: "lost", fault: fault(traces) };
}

function fault({ status, said, shimLives }: Traces): string {
  if (status === undefined && !shimLives) return "the process that waited for the sandbox was killed";
  if (status === undefined) return "how the sandbox ended could not be written down";
  if (status !== RUNSC_FAILED) return `runsc was killed (exit status ${status})`;
  return `the sandbox was killed: ${said.split("\n").at(-1) ?? ""}`;
}
