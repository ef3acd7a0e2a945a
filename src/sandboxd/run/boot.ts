import { createHash } from "node:crypto";
import { mkdirSync, statSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Config } from "../../config/schema.ts";
import type { RunId } from "../../ids.ts";
import type { Instance } from "../../instance/instance.ts";
import type { User } from "../../kernel/users.ts";
import type { BootTimes, OperationArgs, RunMake } from "../../protocol/sandboxd.ts";
import type { Cgroups, SandboxLimits } from "../cgroup.ts";
import { OperationError, StepError } from "../../protocol/lines/failure.ts";
import { isAlive, type ProcessIdentity } from "../process.ts";
import { readState } from "../runsc.ts";
import { openFifos } from "./fifos.ts";
import { runNames, type RunNames } from "./names.ts";
import type { RunNetworks } from "./network.ts";
import { writeRecord, type RunRecord } from "./record.ts";
import { seccompProfile } from "./seccomp.ts";
import { complaint, exitStatus, startShim } from "./shim.ts";
import { hostTasks, runscArguments, runSpec } from "./spec.ts";
import { removeRun } from "./teardown.ts";
import { mountWorktree } from "./worktree.ts";

export const RUN_STEPS = [
  "directory",
  "fifos",
  "worktree",
  "cgroup",
  "network",
  "spec",
  "shim",
  "record",
  "running",
  "limits",
] as const;
export type RunStep = (typeof RUN_STEPS)[number];

export interface RunDeps {
  readonly instance: Instance;
  readonly config: Config;
  readonly runsc: string;
  readonly rootImage: string;
  /** What those two are: a digest, and a version. */
  readonly versions: Pick<RunMake, "rootfs" | "runsc">;
  readonly api: User;
  readonly cgroups: Cgroups;
  readonly networks: RunNetworks;
  /** Called before each step of a boot; what it throws fails that step. */
  readonly onStep?: (step: RunStep, run: RunId) => void;
}

export interface RunSandbox {
  readonly names: RunNames;
  readonly record: RunRecord;
  readonly took?: BootTimes;
}

const RUNNING_TIMEOUT_MS = 15_000;
const POLL_MS = 2;
/** By how much a file's time may be behind the clock, and more. */
const CLOCK_MS = 20;
/** Less than an exec sandbox, for which somebody waits. */
const IO_WEIGHT = 50;
const MIB = 1024 * 1024;

/** The most that a run may have: what it gets is known when it is admitted. */
function ceilings({ memory_mb, pids, cpus }: Config["runs"]) {
  return { memoryBytes: memory_mb * MIB, pids: hostTasks(pids), cpus, ioWeight: IO_WEIGHT };
}

/** What a run has when it is admitted: whatever api says, this host's own limits hold. */
export function admitted(
  runs: Config["runs"],
  asked: Pick<OperationArgs<"admitRun">, "memory_mb" | "pids" | "cpus">,
): SandboxLimits {
  const most = ceilings(runs);
  return {
    ...most,
    memoryBytes: Math.min(most.memoryBytes, asked.memory_mb * MIB),
    pids: Math.min(most.pids, hostTasks(asked.pids)),
    cpus: Math.min(most.cpus, asked.cpus),
  };
}

/**
 * Boots a run's sandbox, whose init then waits: a straight line, and when a step fails, the teardown that every run
 * gets. Its filter and its limits are in force before its first process, or there is none. A spare boots behind the
 * others. Throws StepError.
 */
export async function bootRun(deps: RunDeps, run: RunId, spare: boolean): Promise<RunSandbox> {
  const { instance, config, cgroups } = deps;
  const names = runNames(instance, run);
  const step = async <T>(name: RunStep, act: () => T | Promise<T>): Promise<T> => {
    try {
      deps.onStep?.(name, run);
      return await act();
    } catch (error) {
      throw error instanceof OperationError ? error : new StepError(name, error);
    }
  };
  let shim: ProcessIdentity | undefined;
  try {
    await step("directory", () => mkdirSync(names.emptyRoot, { recursive: true, mode: 0o700 }));
    const fifos = await step("fifos", () => openFifos(instance, run, deps.api));
    try {
      await step("worktree", () => mountWorktree(instance, names));
      await step("cgroup", () => {
        cgroups.create(names.cgroup, ceilings(config.runs));
        if (spare) cgroups.setPriority(names.cgroup, "spare");
      });
      const begun = performance.now();
      const { netnsPath, ...network } = await step("network", () => deps.networks.ensure(run));
      const connected = performance.now();
      const made_of = await step("spec", () => writeSpec(names, deps, netnsPath));
      const process = await step("shim", () => startShim(names, deps.runsc, runscArguments(names), fifos));
      shim = process;
      const record: RunRecord = { process, network, made_of, deadline: null, ending: null };
      await step("record", () => writeRecord(names, record));
      const pid = await step("running", () => whenRunning(names, process));
      await step("limits", () => cgroups.verifyMember(names.cgroup, pid));
      const network_ms = Math.round(connected - begun);
      const took = { network_ms, boot_ms: Math.round(performance.now() - connected) };
      return { names, record, took };
    } finally {
      fifos.close();
    }
  } catch (error) {
    await undo(deps, names, shim, error);
    throw error;
  }
}

function writeSpec(names: RunNames, { rootImage, versions, config }: RunDeps, netnsPath: string): RunMake {
  const text = JSON.stringify(runSpec(names, rootImage, netnsPath, config.runs));
  writeFileSync(names.spec, text, { mode: 0o600 });
  return { spec_sha256: sha256(text), seccomp_sha256: sha256(JSON.stringify(seccompProfile)), ...versions };
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** The sandbox's main process, once runsc's own state file says that the sandbox runs. */
async function whenRunning(names: RunNames, shim: ProcessIdentity): Promise<number> {
  const deadline = Date.now() + RUNNING_TIMEOUT_MS;
  let read = -Infinity;
  while (Date.now() < deadline) {
    // It has the whole spec in it, and reading that over and over would slow the boot down.
    const written = statSync(names.runscState, { throwIfNoEntry: false })?.mtimeMs ?? -Infinity;
    if (written >= read - CLOCK_MS) {
      read = Date.now();
      const state = readState(names.runscState);
      if (state?.status === "running") return state.sandbox.pid;
    }
    if (exitStatus(names) !== undefined || !isAlive(shim))
      throw new Error(`runsc ended before the sandbox ran: ${complaint(names) || "no message"}`);
    await sleep(POLL_MS);
  }
  throw new Error(`the sandbox does not run after ${RUNNING_TIMEOUT_MS} ms`);
}

/** The boot's own error stays the one that is told; a failed teardown is added to it. */
async function undo(
  deps: RunDeps,
  names: RunNames,
  shim: ProcessIdentity | undefined,
  error: unknown,
): Promise<void> {
  try {
    await removeRun(deps, names, shim);
  } catch (second) {
    const message = `run ${names.id} could neither be started nor be cleaned up`;
    throw new AggregateError([error, second], message, { cause: second });
  }
}
