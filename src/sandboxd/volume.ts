import { closeSync, fstatSync, openSync } from "node:fs";
import { relative } from "node:path";
import type { NamespaceId } from "../ids.ts";
import type { Instance } from "../instance.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import { roleUser, TENANT, type User } from "../kernel/users.ts";

/**
 * Opens a namespace's live directory for attaching. All below the data directory is api's and so hostile: it may hold
 * links, other kinds of files or another owner's directory, and change at any time. So the kernel walks it from a
 * descriptor of the data directory (root's), follows no link and crosses no mount, and what was opened is then looked
 * at by its descriptor. The caller closes it.
 */
export function openVolume(instance: Instance, namespace: NamespaceId): number {
  try {
    return openOwned(instance.data, `${volumePath(instance, namespace)}/live`, constants.O_PATH, TENANT);
  } catch (error) {
    throw new Error(`the volume of ${namespace} can't be attached`, { cause: error });
  }
}

/** Opens the directory that a namespace's live and tmp lie in, for its encryption; with the same care. */
export function openVolumeRoot(instance: Instance, namespace: NamespaceId): number {
  try {
    return openOwned(
      instance.data,
      volumePath(instance, namespace),
      constants.O_RDONLY,
      roleUser("cofferdam"),
    );
  } catch (error) {
    throw new Error(`the volume of ${namespace} can't be opened`, { cause: error });
  }
}

function volumePath(instance: Instance, namespace: NamespaceId): string {
  return `${relative(instance.data, instance.api.volumes)}/${namespace}`;
}

/** A directory of `owner`'s below the data directory. */
function openOwned(dataPath: string, path: string, access: number, owner: User): number {
  const data = openSync(dataPath, constants.O_PATH | constants.O_DIRECTORY);
  try {
    const flags = access | constants.O_DIRECTORY | constants.O_NOFOLLOW;
    const fd = openBeneath(data, path, flags, 0, { noSymlinks: true, noMounts: true });
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
