import { relative } from "node:path";
import type { NamespaceId } from "../ids.ts";
import type { Instance } from "../instance/instance.ts";
import { constants } from "../kernel/openat2.ts";
import { openOwned } from "../kernel/owned.ts";
import { roleUser, TENANT, type User } from "../kernel/users.ts";

/** Opens a namespace's live directory for attaching. The caller closes it. */
export function openVolume(instance: Instance, namespace: NamespaceId): number {
  return open(instance, namespace, "/live", constants.O_PATH, TENANT);
}

/** Opens the directory that a namespace's live and tmp lie in, for its encryption. The caller closes it. */
export function openVolumeRoot(instance: Instance, namespace: NamespaceId): number {
  return open(instance, namespace, "", constants.O_RDONLY, roleUser("cofferdam"));
}

function open(
  instance: Instance,
  namespace: NamespaceId,
  below: string,
  access: number,
  owner: User,
): number {
  const path = `${relative(instance.data, instance.api.volumes)}/${namespace}${below}`;
  try {
    return openOwned(instance.data, path, access, owner);
  } catch (error) {
    throw new Error(`the volume of ${namespace} can't be opened`, { cause: error });
  }
}
