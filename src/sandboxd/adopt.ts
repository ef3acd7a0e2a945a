import type { SandboxId } from "../ids.ts";
import type { Instance } from "../instance/instance.ts";
import type { Log } from "../log.ts";
import { teardown, type Sandbox } from "./boot.ts";
import type { Cgroups } from "./cgroup.ts";
import { explain } from "../protocol/lines/failure.ts";
import { sandboxNames, type SandboxNames } from "./names.ts";
import { isAlive, signalPid, whenGone } from "./process.ts";
import { readRecord, type SandboxRecord } from "./record.ts";
import { readState } from "./runsc.ts";
import { mountPointsBelow } from "./slot.ts";
import { letGoAdopted } from "./standstill.ts";
import { runscProcesses, sandboxesOnHost } from "./survey.ts";

const LOOK_EVERY_MS = 400;

export interface Adopted {
  readonly sandbox: Sandbox;
  readonly record: SandboxRecord;
}

export interface AdoptOptions {
  readonly instance: Instance;
  readonly cgroups: Cgroups;
  /** Of the sandboxes that would be made now: a spare of another make is not kept. */
  readonly make: string;
  readonly log: Log;
}

/**
 * At start: what a sandboxd before this one left on the host. A sandbox that lives and is whole goes on (its stdio is
 * api's, its cgroup its own, and commands may run in it); all else is removed.
 */
export async function adoptOrRemove({ instance, cgroups, make, log }: AdoptOptions): Promise<Adopted[]> {
  const adopted: Adopted[] = [];
  const broken: SandboxNames[] = [];
  for (const id of sandboxesOnHost(instance, cgroups)) {
    const names = sandboxNames(instance, id);
    const record = readRecord(names);
    const fault = record === undefined ? "it has no record" : await faultOf(names, record, cgroups, make);
    if (record !== undefined && fault === undefined) adopted.push({ record, sandbox: revive(names, record) });
    else {
      broken.push(names);
      log.info("a sandbox from before the start is removed", { sandbox: id, why: fault });
    }
  }

  const keep = new Set(adopted.map(({ sandbox }) => sandbox.process.pid));
  const kept = new Set(adopted.flatMap(({ sandbox }) => cgroups.processes(sandbox.names.cgroup)));
  for (const pid of runscProcesses(instance)) if (!keep.has(pid) && !kept.has(pid)) signalPid(pid);
  await Promise.all(broken.map((names) => removeStray(names, cgroups, log)));
  return adopted;
}

/** What the host shows of this instance that nobody claims is removed; what can't be is told and tried again later. */
export async function removeStrays(
  instance: Instance,
  cgroups: Cgroups,
  isClaimed: (id: SandboxId) => boolean,
  log: Log,
): Promise<void> {
  for (const id of sandboxesOnHost(instance, cgroups)) {
    if (isClaimed(id)) continue;
    log.warn("remains of a sandbox are removed", { sandbox: id });
    await removeStray(sandboxNames(instance, id), cgroups, log);
  }
}

async function removeStray(names: SandboxNames, cgroups: Cgroups, log: Log): Promise<void> {
  try {
    await teardown(names, cgroups, readRecord(names)?.process);
  } catch (error) {
    log.error("a sandbox is not wholly removed", { sandbox: names.id, error: explain(error) });
  }
}

function revive(names: SandboxNames, record: SandboxRecord): Sandbox {
  const { nonce, startedAt, process } = record;
  const ended = whenGone(process, LOOK_EVERY_MS, { ref: false });
  return { names, nonce, startedAt, process, ended, complaint: () => "" };
}

async function faultOf(
  names: SandboxNames,
  record: SandboxRecord,
  cgroups: Cgroups,
  make: string,
): Promise<string | undefined> {
  if (!isAlive(record.process)) return "its process has ended";
  const state = readState(names.runsc.state);
  if (state?.status !== "running") return "it was still booting";
  if (record.namespace === null && record.make !== make) return "it is a spare of another make";
  const attached = mountPointsBelow(names.slot).includes(names.workspace);
  if (attached !== (record.namespace !== null)) return "its tenant was still being attached";
  try {
    cgroups.verifyMember(names.cgroup, state.sandbox.pid);
    await letGoAdopted(names);
  } catch (error) {
    return explain(error);
  }
  return undefined;
}
