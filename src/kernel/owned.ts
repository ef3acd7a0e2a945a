import { closeSync, fstatSync, openSync } from "node:fs";
import { constants, openBeneath } from "./openat2.ts";
import type { User } from "./users.ts";

/**
 * Opens a directory of `owner`'s below the data directory, as root. What is below a role's directory is that role's, and
 * so hostile: it may hold links, other kinds of files or another owner's directory, and change at any time. So the
 * kernel walks it from a descriptor of the data directory (root's), follows no link and crosses no mount, and what was
 * opened is then looked at by its descriptor. `access` is O_PATH or O_RDONLY. The caller closes it.
 * `mounts`: what lies on the way may be mounted there, from the same file system: a unit shows directories so.
 */
export function openOwned(
  dataPath: string,
  path: string,
  access: number,
  owner: User,
  { mounts = false }: { mounts?: boolean } = {},
): number {
  const data = openSync(dataPath, constants.O_PATH | constants.O_DIRECTORY);
  try {
    const flags = access | constants.O_DIRECTORY | constants.O_NOFOLLOW;
    const fd = openBeneath(data, path, flags, 0, { noSymlinks: true, noMounts: !mounts });
    try {
      check(fd, data, owner);
      return fd;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  } finally {
    closeSync(data);
  }
}

function check(fd: number, data: number, owner: User): void {
  const found = fstatSync(fd);
  if (!found.isDirectory()) throw new Error("it is not a directory");
  if (found.uid !== owner.uid || found.gid !== owner.gid) {
    throw new Error(`it belongs to ${found.uid}:${found.gid}, not to ${owner.uid}:${owner.gid}`);
  }
  if (found.dev !== fstatSync(data).dev)
    throw new Error("it is on another file system than the data directory");
}
