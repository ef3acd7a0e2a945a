import { closeSync, mkdirSync, rmdirSync } from "node:fs";
import { relative } from "node:path";
import type { RunId } from "../../ids.ts";
import type { Instance } from "../../instance/instance.ts";
import { MountAttr, mountSetattr, moveMount, openTree } from "../../kernel/mounts.ts";
import { constants } from "../../kernel/openat2.ts";
import { openOwned } from "../../kernel/owned.ts";
import { TENANT } from "../../kernel/users.ts";
import { unmountAll } from "../slot.ts";
import type { RunNames } from "./names.ts";

/** The caller closes it. */
function openWorktree(instance: Instance, run: RunId): number {
  const path = `${relative(instance.data, instance.api.runs)}/${run}/work`;
  try {
    return openOwned(instance.data, path, constants.O_PATH, TENANT);
  } catch (error) {
    throw new Error(`the worktree of ${run} can't be opened`, { cause: error });
  }
}

/** Mounts a run's worktree, which api has made, where its sandbox takes it from: by descriptor, so nobody can redirect it. */
export function mountWorktree(instance: Instance, names: RunNames): void {
  const worktree = openWorktree(instance, names.id);
  try {
    const tree = openTree({ fd: worktree });
    try {
      mountSetattr(tree, MountAttr.noSuid | MountAttr.noDev);
      mkdirSync(names.work, { recursive: true, mode: 0o700 });
      moveMount(tree, { path: names.work });
    } finally {
      closeSync(tree);
    }
  } finally {
    closeSync(worktree);
  }
}

/** Never removes what is below: an rmdir of a directory that is still a mount fails. */
export function unmountWorktree({ work }: RunNames): void {
  unmountAll(work);
  try {
    rmdirSync(work);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}
