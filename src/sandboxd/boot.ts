import { randomBytes } from "node:crypto";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import type { Config } from "../config/schema.ts";
import { sandboxId, type SandboxId } from "../ids.ts";
import type { Instance } from "../instance/instance.ts";
import { closeFd } from "../kernel/openat2.ts";
import type { Cgroups } from "./cgroup.ts";
import { connectToApi } from "./connection.ts";
import { OperationError, StepError } from "../protocol/lines/failure.ts";
import { sandboxNames, type SandboxNames } from "./names.ts";
import { isAlive, killProcess, whenGone, type ProcessIdentity } from "./process.ts";
import { writeRecord } from "./record.ts";
import { startRunsc, whenRunning } from "./runsc.ts";
import { createSlot, removeSlot } from "./slot.ts";
import { createSteps } from "./steps.ts";
import { runscFlags, sandboxSpec } from "./spec.ts";

/** A booted sandbox: its names on the host, what api knows it by, and the process whose end is its own. */
export interface Sandbox {
  readonly names: SandboxNames;
  readonly nonce: string;
  readonly startedAt: string;
  readonly process: ProcessIdentity;
  readonly ended: Promise<unknown>;
  /** What runsc and the init said on stderr; nothing for one that was booted by a sandboxd before. */
  readonly complaint: () => string;
}

/** Every step of a boot, in order. `onStep` is called before each; what it throws fails that step. */
export const BOOT_STEPS = [
  "connect",
  "bundle",
  "cgroup",
  "slot",
  "runsc",
  "record",
  "running",
  "limits",
] as const;
export type BootStep = (typeof BOOT_STEPS)[number];

export interface BootDeps {
  readonly instance: Instance;
  readonly config: Config;
  readonly runsc: string;
  readonly rootImage: string;
  readonly apiUid: number;
  readonly cgroups: Cgroups;
  /** Names what a sandbox was made from, for its record. */
  readonly make: string;
  readonly onStep?: (step: BootStep, id: SandboxId) => void;
}

const RUNNING_TIMEOUT_MS = 15_000;
const TEARDOWN_TIMEOUT_MS = 10_000;
const MIB = 1024 * 1024;

function limitsOf(exec: Config["exec"]) {
  return { memoryBytes: exec.memory_mb * MIB, pids: exec.pids, cpus: exec.cpus };
}

/**
 * Boots a sandbox without a tenant: a straight line, and when a step fails, the teardown that every sandbox gets. It
 * runs with its limits in force or not at all. Throws StepError, or ApiAway.
 */
export async function bootSandbox(deps: BootDeps, id: SandboxId = sandboxId.make()): Promise<Sandbox> {
  const { instance, config, cgroups } = deps;
  const names = sandboxNames(instance, id);
  const nonce = randomBytes(32).toString("hex");
  const startedAt = new Date().toISOString();
  const step = async <T>(name: BootStep, act: () => T | Promise<T>): Promise<T> => {
    try {
      deps.onStep?.(name, id);
      return await act();
    } catch (error) {
      throw error instanceof OperationError ? error : new StepError(name, error);
    }
  };
  // First, so that nothing is made while api is away.
  const stdio = await step("connect", () =>
    connectToApi(instance.sockets.sandboxes, deps.apiUid, { sandbox: id, nonce }),
  );
  let process: ProcessIdentity | undefined;
  try {
    await step("bundle", () => {
      mkdirSync(names.emptyRoot, { recursive: true, mode: 0o700 });
      writeFileSync(names.spec, JSON.stringify(sandboxSpec(names, deps.rootImage, config)), {
        mode: 0o600,
      });
    });
    await step("cgroup", () => {
      cgroups.create(names.cgroup, limitsOf(config.exec));
      cgroups.setPriority(names.cgroup, "spare");
    });
    await step("slot", () => createSlot(names));
    const flags = runscFlags(instance.sandboxd.runsc, config.exec.directfs);
    const run = await step("runsc", () => startRunsc(deps.runsc, flags, names, stdio));
    process = run.identity;
    await step("record", () =>
      writeRecord(names, {
        sandbox: id,
        nonce,
        process: run.identity,
        startedAt,
        namespace: null,
        make: deps.make,
      }),
    );
    const pid = await step("running", () => whenRunning(names, run, RUNNING_TIMEOUT_MS));
    await step("limits", () => cgroups.verifyMember(names.cgroup, pid));
    return { names, nonce, startedAt, process: run.identity, ended: run.ended, complaint: run.complaint };
  } catch (error) {
    await undo(names, cgroups, process, error);
    throw error;
  } finally {
    // The sandbox has its own by now; with ours open too, api would never see it end.
    closeFd(stdio);
  }
}

/** The boot's own error stays the one that is told; a failed teardown is added to it. */
async function undo(
  names: SandboxNames,
  cgroups: Cgroups,
  process: ProcessIdentity | undefined,
  error: unknown,
) {
  try {
    await teardown(names, cgroups, process);
  } catch (second) {
    const message = `sandbox ${names.id} could neither be booted nor be cleaned up`;
    throw new AggregateError([error, second], message, { cause: second });
  }
}

/**
 * Removes all that the host shows of a sandbox, whatever state it is in: every step is tried, only absence is a
 * success, and what failed is thrown together at the end. The processes go first, since they pin the rest; the bundle
 * with the record goes last, so that a crash in the middle leaves a trace to begin from.
 */
export async function teardown(
  names: SandboxNames,
  cgroups: Cgroups,
  process?: ProcessIdentity,
): Promise<void> {
  const steps = createSteps(`sandbox ${names.id} is not wholly removed`);
  if (process !== undefined) {
    await steps.attempt("kill runsc", async () => {
      killProcess(process);
      await Promise.race([whenGone(process, 1), deadline(TEARDOWN_TIMEOUT_MS)]);
      if (isAlive(process)) throw new Error(`process ${process.pid} does not end`);
    });
  }
  await steps.attempt("cgroup", () => cgroups.remove(names.cgroup, TEARDOWN_TIMEOUT_MS));
  await steps.attempt("slot", () => removeSlot(names));
  for (const file of Object.values(names.runsc))
    await steps.attempt("runsc state", () => rmSync(file, { force: true }));
  await steps.attempt("bundle", () => rmSync(names.bundle, { recursive: true, force: true }));
  steps.done();
}

function deadline(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}
