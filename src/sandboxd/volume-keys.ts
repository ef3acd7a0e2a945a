import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { namespaceId, type NamespaceId } from "../ids.ts";
import type { Instance } from "../instance/instance.ts";
import { isEmptyDirectory } from "../kernel/directory.ts";
import {
  addKey,
  identifierOf,
  keyState,
  policyOf,
  removeKey,
  setPolicy,
  type KeyIdentifier,
} from "../kernel/fscrypt.ts";
import { constants } from "../kernel/openat2.ts";
import { syncFileSystem } from "../kernel/syncfs.ts";
import type { OperationResult } from "../protocol/sandboxd.ts";
import { createTurns } from "../turns.ts";
import { openVolumeRoot } from "./volume.ts";

export interface VolumeKeysParts {
  readonly instance: Instance;
  /** Whether a sandbox has the namespace's volume. */
  readonly isAttached: (namespace: NamespaceId) => boolean;
}

/**
 * The keys that the kernel has of this instance's volumes. Each has a file under /run, written before the kernel gets
 * the key: it names the key by its identifier, so that it can be taken away when the volume itself is gone.
 */
export function createVolumeKeys({ instance, isAttached }: VolumeKeysParts) {
  const { unlocked: records } = instance.sandboxd;
  mkdirSync(records, { recursive: true, mode: 0o700 });
  const turns = createTurns();

  /** Keys belong to the file system: any descriptor on it does. */
  async function onFilesystem<T>(work: (fd: number) => T | Promise<T>): Promise<T> {
    const fd = openSync(instance.data, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      return await work(fd);
    } finally {
      closeSync(fd);
    }
  }

  function unlock(namespace: NamespaceId, key: Uint8Array): OperationResult<"unlockVolume"> {
    const fd = openVolumeRoot(instance, namespace);
    try {
      const identifier = identifierOf(key);
      const policy = policyOf(fd);
      if (policy.kind === "unable") return { state: "plain" };
      if (policy.kind === "none" && !isEmptyDirectory(fd)) return { state: "plain" };
      if (policy.kind === "foreign") return { state: "foreign" };
      if (policy.kind === "key" && policy.identifier !== identifier) return { state: "foreign" };
      remember(namespace, identifier);
      addKey(fd, key);
      if (policy.kind === "none") setPolicy(fd, identifier);
      return { state: "encrypted" };
    } finally {
      closeSync(fd);
    }
  }

  function remember(namespace: NamespaceId, identifier: KeyIdentifier): void {
    const path = join(records, namespace);
    writeFileSync(`${path}.new`, identifier, { mode: 0o600 });
    renameSync(`${path}.new`, path);
  }

  function remembered(namespace: NamespaceId): KeyIdentifier | null {
    try {
      return readFileSync(join(records, namespace), "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
      throw error;
    }
  }

  function take(fd: number, namespace: NamespaceId): OperationResult<"lockVolume"> {
    const identifier = remembered(namespace);
    if (identifier === null) return { state: "locked" };
    if (isAttached(namespace)) return { state: "attached" };
    // With its record, so that it is asked for once more.
    if (removeKey(fd, identifier) === "busy") return { state: "busy" };
    rmSync(join(records, namespace), { force: true });
    return { state: "locked" };
  }

  async function list(): Promise<NamespaceId[]> {
    const names = readdirSync(records).flatMap((name) => namespaceId.schema.safeParse(name).data ?? []);
    return onFilesystem((fd) =>
      names.filter((name) => {
        const identifier = remembered(name);
        return identifier !== null && keyState(fd, identifier) !== "absent";
      }),
    );
  }

  return {
    unlock: async (namespace: NamespaceId, key: Uint8Array) =>
      turns.run(namespace, async () => unlock(namespace, key)),
    lock: async (namespace: NamespaceId): Promise<OperationResult<"lockVolume">> =>
      turns.run(namespace, async () => {
        if (remembered(namespace) === null) return { state: "locked" };
        if (isAttached(namespace)) return { state: "attached" };
        return onFilesystem(async (fd) => {
          // The kernel does it in the call that takes a key away, and nothing else could be answered meanwhile.
          await syncFileSystem(fd);
          return take(fd, namespace);
        });
      }),
    list,

    /** For the end of the instance: all that can be, then it throws what could not. */
    async lockAll(): Promise<void> {
      const namespaces = await list();
      const failures: unknown[] = [];
      await onFilesystem(async (fd) => {
        if (namespaces.length > 0) await syncFileSystem(fd);
        for (const namespace of namespaces) {
          try {
            if (take(fd, namespace).state !== "locked")
              failures.push(new Error(`${namespace} is still in use`));
          } catch (error) {
            failures.push(error);
          }
        }
      });
      if (failures.length > 0) throw new AggregateError(failures, "not every volume is locked");
    },
  };
}
