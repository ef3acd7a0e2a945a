import { readdirSync } from "node:fs";
import { relative } from "node:path";
import type { SandboxId } from "../ids.ts";
import type { Instance } from "../instance/instance.ts";
import { argvOf, pids, unlessGone } from "../kernel/process.ts";
import type { Cgroups } from "./cgroup.ts";
import { cgroupParent, sandboxIdInName } from "./names.ts";
import { mountPointsBelow } from "./slot.ts";

/** Every sandbox of this instance of which the host shows anything: directories, mounts, cgroups, runsc's state. */
export function sandboxesOnHost(instance: Instance, cgroups: Cgroups): Set<SandboxId> {
  const { slots, bundles, runsc } = instance.sandboxd;
  const names = [
    ...list(slots),
    ...list(bundles),
    ...list(runsc),
    ...cgroups.children(cgroupParent(instance)),
    ...mountPointsBelow(slots).map((point) => relative(slots, point).split("/")[0] ?? ""),
  ];
  return new Set(names.map(sandboxIdInName).filter((id) => id !== undefined));
}

/**
 * The processes that were started with this instance's runsc root, whether or not anything else is known of them: a
 * `runsc run` whose sandboxd died before it could write its record has no other trace yet.
 */
export function runscProcesses(instance: Instance): number[] {
  const mark = `--root=${instance.sandboxd.runsc}`;
  return pids().filter((pid) => unlessGone(() => argvOf(pid))?.includes(mark));
}

/** What is in a directory; nothing when it is not there. */
export function list(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
