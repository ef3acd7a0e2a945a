import { readFileSync, readdirSync, rmSync } from "node:fs";
import type { Cgroups } from "../cgroup.ts";
import { StepError } from "../../protocol/lines/failure.ts";
import { isAlive, killProcess, signalPid, whenGone, type ProcessIdentity } from "../process.ts";
import type { RunNames } from "./names.ts";
import type { RunNetworks } from "./network.ts";
import { unmountWorktree } from "./worktree.ts";

const TIMEOUT_MS = 10_000;

interface Deps {
  readonly cgroups: Cgroups;
  readonly networks: RunNetworks;
}

/**
 * Removes all that the host shows of a run's sandbox, whatever state it is in, and leaves its directory with the record
 * and the fate. Every step is tried, only absence is a success, and what failed is thrown together at the end. The
 * processes go first, since they pin the rest.
 */
export async function removeSandbox({ cgroups, networks }: Deps, names: RunNames): Promise<void> {
  const failures: unknown[] = [];
  const attempt = async (step: string, act: () => void | Promise<void>) => {
    try {
      await act();
    } catch (error) {
      failures.push(new StepError(step, error));
    }
  };
  await attempt("cgroup", () => cgroups.remove(names.cgroup, TIMEOUT_MS));
  await Promise.all([
    attempt("network", () => networks.remove(names.id)),
    attempt("worktree", () => unmountWorktree(names)),
    attempt("runsc state", () => rmSync(names.runscRoot, { recursive: true, force: true })),
  ]);
  if (failures.length > 0) throw new AggregateError(failures, `run ${names.id} is not wholly removed`);
}

/**
 * Removes all of a run, what is written of it last. Its processes are looked for on the host, since a sandboxd that was
 * killed may have noted none.
 */
export async function removeRun(deps: Deps, names: RunNames): Promise<void> {
  for (const pid of runProcesses(names)) signalPid(pid);
  // Throws before anything is removed below a worktree that is still mounted there.
  await removeSandbox(deps, names);
  removeTraces(names);
}

/** What is written of a run whose sandbox is gone. */
export function removeTraces(names: RunNames): void {
  rmSync(names.exit, { force: true });
  rmSync(names.directory, { recursive: true, force: true });
}

/** Lets go of the FIFOs, and with them of what nobody has read. */
export async function removeShim(shim: ProcessIdentity): Promise<void> {
  killProcess(shim);
  await Promise.race([whenGone(shim, 1), new Promise((resolve) => setTimeout(resolve, TIMEOUT_MS).unref())]);
  if (isAlive(shim)) throw new Error(`process ${shim.pid} does not end`);
}

/** Of a run: its shim, runsc, its sandbox and its gofer, whose command lines all name its runsc root. */
function runProcesses({ runscRoot }: RunNames): number[] {
  return processesWith((argument) => argument === `--root=${runscRoot}`).map(([pid]) => pid);
}

/** Processes with such an argument, and the argument. */
export function processesWith(matches: (argument: string) => boolean): [pid: number, argument: string][] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      const argument = commandLine(pid).find(matches);
      return argument === undefined ? [] : [[Number(pid), argument] as [number, string]];
    });
}

function commandLine(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH") return [];
    throw error;
  }
}
