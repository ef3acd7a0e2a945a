import { relative } from "node:path";
import type { RunId } from "../../ids.ts";
import type { Instance } from "../../instance/instance.ts";
import type { Cgroups } from "../cgroup.ts";
import { cgroupParent } from "../names.ts";
import { mountPointsBelow } from "../slot.ts";
import { list } from "../survey.ts";
import { exitDirectory, runIdOf } from "./names.ts";
import { processesWith } from "./teardown.ts";

/** Every run of this instance of which the host shows anything but a network. */
export function runsOnHost(instance: Instance, cgroups: Cgroups): Set<RunId> {
  const { runs, worktrees } = instance.sandboxd;
  const root = `--root=${runs}/`;
  const names = [
    ...list(runs),
    ...list(exitDirectory(instance)),
    ...cgroups.children(cgroupParent(instance)),
    ...list(worktrees),
    ...mountPointsBelow(worktrees).map((point) => relative(worktrees, point)),
    ...processesWith((argument) => argument.startsWith(root)).map(
      ([, argument]) => argument.slice(root.length).split("/")[0] ?? "",
    ),
  ];
  return new Set(names.map(runIdOf).filter((id) => id !== undefined));
}
