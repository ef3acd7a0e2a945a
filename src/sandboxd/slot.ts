import { mkdirSync, readFileSync, rmdirSync } from "node:fs";
import { basename } from "node:path";
import { KernelError } from "../kernel/libc.ts";
import {
  MountAttr,
  makeShared,
  mountSetattr,
  moveMount,
  newFilesystem,
  openTree,
  umount,
} from "../kernel/mounts.ts";
import { closeFd, mkdirAt } from "../kernel/openat2.ts";
import type { SandboxNames } from "./names.ts";

/**
 * A slot is what a sandbox gets before it has a tenant: a file system of its own with one empty directory, read-only
 * (so that even the sandbox's root can't write beside `workspace/`), shared, so that what is mounted on it later
 * appears inside.
 */
export function createSlot({ slot, workspace }: SandboxNames): void {
  mkdirSync(slot, { mode: 0o700, recursive: true });
  const tree = newFilesystem(
    "tmpfs",
    { size: "4k", nr_inodes: "4", mode: "755", source: "cofferdam" },
    MountAttr.noSuid | MountAttr.noDev | MountAttr.noExec,
  );
  try {
    mkdirAt(tree, basename(workspace), 0o755);
    mountSetattr(tree, MountAttr.readOnly);
    moveMount(tree, { path: slot });
  } finally {
    closeFd(tree);
  }
  makeShared(slot);
}

/** Attaches the volume at `volumeFd` (from openVolume) to the slot: by descriptor, so nobody can redirect it. */
export function attachVolume({ workspace }: SandboxNames, volumeFd: number): void {
  const tree = openTree({ fd: volumeFd });
  try {
    mountSetattr(tree, MountAttr.noSuid | MountAttr.noDev);
    moveMount(tree, { path: workspace });
  } finally {
    closeFd(tree);
  }
}

/** Undoes both; what is not there is a success. The sandbox must be gone: it pins what is mounted. */
export function removeSlot({ slot, workspace }: SandboxNames): void {
  unmountAll(workspace);
  unmountAll(slot);
  try {
    rmdirSync(slot);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

/** What is not mounted is a success. */
export function unmountAll(path: string): void {
  for (;;) {
    try {
      umount(path, { detach: true });
    } catch (error) {
      // Nothing (more) is mounted here, or there is no such path.
      if (error instanceof KernelError && (error.code === "EINVAL" || error.code === "ENOENT")) return;
      throw error;
    }
  }
}

/** The mount points below a directory, from /proc/self/mountinfo. */
export function mountPointsBelow(
  directory: string,
  mountinfo = readFileSync("/proc/self/mountinfo", "utf8"),
): string[] {
  return mountinfo
    .split("\n")
    .map((line) => unescapeMount(line.split(" ")[4] ?? ""))
    .filter((point) => point.startsWith(`${directory}/`));
}

/** The kernel writes space, tab, newline and backslash as octal. */
function unescapeMount(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
