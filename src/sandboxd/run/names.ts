import { join } from "node:path";
import { runId, type RunId } from "../../ids.ts";
import type { Instance } from "../../instance/instance.ts";
import { cgroupParent } from "../names.ts";

/** All that the host shows of one run but its network, derived from its id alone. */
export interface RunNames {
  readonly id: RunId;
  /** root's, and removed last: whatever else is left of a run, this says that there was one. */
  readonly directory: string;
  readonly spec: string;
  readonly record: string;
  readonly fate: string;
  /** What runsc itself says, when something is wrong. */
  readonly log: string;
  /** An empty directory, which OCI wants as the root's path; the real root is the image. */
  readonly emptyRoot: string;
  /** Where its worktree is mounted, for its gofer to take it from: so others than root may pass through to it. */
  readonly work: string;
  /** Of this run alone, so that nothing of runsc's is left when the directory is gone. */
  readonly runscRoot: string;
  readonly runscState: string;
  /** Where its shim writes how runsc ended: in one directory for all runs, which is watched. */
  readonly exit: string;
  /** Relative to each cgroup hierarchy's root. */
  readonly cgroup: string;
}

export function runNames(instance: Instance, id: RunId): RunNames {
  const directory = join(instance.sandboxd.runs, id);
  const runscRoot = join(directory, "runsc");
  return {
    id,
    directory,
    spec: join(directory, "config.json"),
    record: join(directory, "record.json"),
    fate: join(directory, "fate.json"),
    log: join(directory, "runsc.log"),
    emptyRoot: join(directory, "root"),
    work: join(instance.sandboxd.worktrees, id),
    runscRoot,
    runscState: join(runscRoot, `${id}_sandbox:${id}.state`),
    exit: join(exitDirectory(instance), id),
    cgroup: `${cgroupParent(instance)}/${id}`,
  };
}

export function exitDirectory(instance: Instance): string {
  return join(instance.sandboxd.runs, "exits");
}

/** The run whose id a name on the host is, if it is one. */
export function runIdOf(name: string): RunId | undefined {
  return runId.schema.safeParse(name).data;
}
