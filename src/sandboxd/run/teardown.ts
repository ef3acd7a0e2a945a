import { rmSync } from "node:fs";
import { setImmediate, setTimeout as sleep } from "node:timers/promises";
import { argvOf, hasEnded, pids, statOf, unlessGone } from "../../kernel/process.ts";
import type { Cgroups } from "../cgroup.ts";
import { isAlive, signalPid, type ProcessIdentity } from "../process.ts";
import { createSteps } from "../steps.ts";
import type { RunNames } from "./names.ts";
import type { RunNetworks } from "./network.ts";
import { readRecord } from "./record.ts";
import { unmountWorktree } from "./worktree.ts";

const TIMEOUT_MS = 10_000;

interface Deps {
  readonly cgroups: Cgroups;
  readonly networks: RunNetworks;
}

/**
 * Removes all that the host shows of a run's sandbox, whatever state it is in, and leaves its directory with the record
 * and the fate. Every step is tried, only absence is a success, and what failed is thrown together at the end. The
 * processes go first, since they pin the rest: `onDead` is called when there is none any more.
 */
export async function removeSandbox(
  { cgroups, networks }: Deps,
  names: RunNames,
  onDead = () => {},
): Promise<void> {
  const steps = createSteps(`run ${names.id} is not wholly removed`);
  await steps.attempt("cgroup", () => cgroups.remove(names.cgroup, TIMEOUT_MS));
  onDead();
  // Whoever waits for the end hears of it before the rest, whose first steps take this thread's time.
  await setImmediate();
  await Promise.all([
    steps.attempt("network", () => networks.remove(names.id)),
    steps.attempt("worktree", () => unmountWorktree(names)),
    steps.attempt("runsc state", () => rmSync(names.runscRoot, { recursive: true, force: true })),
  ]);
  steps.done();
}

/**
 * Removes all of a run, what is written of it last. Its processes are looked for on the host, since a sandboxd that was
 * killed may have noted none; `shim` is the one that is known.
 */
export async function removeRun(
  deps: Deps,
  names: RunNames,
  shim = readRecord(names)?.process,
): Promise<void> {
  if (shim !== undefined) await endSession(shim);
  await endProcesses(() => runProcesses(names));
  // Throws before anything is removed below a worktree that is still mounted there.
  await removeSandbox(deps, names);
  removeTraces(names);
}

/** What is written of a run whose sandbox is gone. */
export function removeTraces(names: RunNames): void {
  rmSync(names.exit, { force: true });
  rmSync(names.directory, { recursive: true, force: true });
}

/** Of a shim: it and runsc, whose sandbox dies with it. And lets go of the FIFOs with what nobody has read. */
export async function endSession(shim: ProcessIdentity): Promise<void> {
  if (!isAlive(shim)) return;
  // By what a process can't lose while it becomes another program: its arguments are away for that moment.
  await endProcesses(() => pids().filter((pid) => sessionOf(pid) === shim.pid));
}

async function endProcesses(find: () => readonly number[]): Promise<void> {
  const end = Date.now() + TIMEOUT_MS;
  for (let found = find(); found.length > 0; found = find()) {
    if (Date.now() > end) throw new Error(`processes ${found.join(", ")} do not end`);
    for (const pid of found) signalPid(pid);
    await sleep(2);
  }
}

/** Of a run: its shim, runsc, its sandbox and its gofer, whose command lines all name its runsc root. */
function runProcesses({ runscRoot }: RunNames): number[] {
  return processesWith((argument) => argument === `--root=${runscRoot}`).map(([pid]) => pid);
}

/** Processes with such an argument, and the argument. */
export function processesWith(matches: (argument: string) => boolean): [pid: number, argument: string][] {
  return pids().flatMap((pid) => {
    const argument = unlessGone(() => argvOf(pid))?.find(matches);
    return argument === undefined ? [] : [[pid, argument] as [number, string]];
  });
}

/** undefined for one that has ended, also when its parent does not know yet. */
function sessionOf(pid: number): number | undefined {
  const stat = unlessGone(() => statOf(pid));
  return stat === undefined || hasEnded(stat) ? undefined : stat.session;
}
