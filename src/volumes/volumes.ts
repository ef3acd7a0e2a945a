import { mkdirSync, openSync } from "node:fs";
import { rename } from "node:fs/promises";
import { AppError, codeOf } from "../errors.ts";
import type { Config } from "../config/schema.ts";
import { namespaceId, type NamespaceId } from "../ids.ts";
import { isEmptyDirectory, readDirectory, statAt, statFd } from "../kernel/directory.ts";
import type { Log } from "../log.ts";
import { constants, fchmodFd, fchownFd, mkdirAt, openBeneath, renameAt } from "../kernel/openat2.ts";
import { syncFileSystem } from "../kernel/syncfs.ts";
import { unmirrored, type Mirror } from "../remote/mirror.ts";
import { amendLive, finishAmendment, type Amendment } from "./amend.ts";
import { OPEN_DIRECTORY, statusAt } from "./beneath.ts";
import { countEncrypted } from "./count-encrypted.ts";
import { Descriptor } from "./descriptor.ts";
import { syncFile } from "./disk.ts";
import { createLeases, type Opener } from "./leases.ts";
import { TENANT } from "./parents.ts";
import type { Encryption } from "./encryption.ts";
import { unfilled, type Filling } from "./filling.ts";
import { purge } from "./purge.ts";
import { fileJudges } from "./fate.ts";
import { createQuota } from "./quota.ts";
import { REDO } from "./redo.ts";
import { replaceLive, type Replacement } from "./replace.ts";
import { openSpace, type Space } from "./space.ts";
import type { ManifestRef } from "../snapshots/manifest.ts";
import type { WorkspacePath } from "./path.ts";
import { usageOf, type Amount, type Count } from "./usage.ts";
import type { UsageRows } from "./usage-rows.ts";
import { createUsageTable } from "./usage-table.ts";
import { noVolume, openVolume, type Volume } from "./volume.ts";
import { checkWrite } from "./write.ts";

/** Removed namespaces, until they are deleted. No namespace's id looks like this. */
const TRASH = ".trash";
const MIB = 1024 * 1024;
const SETTLE_PATIENCE_MS = 30_000;
const SETTLE_PAUSE_MS = 100;
const FINISH_AFTER_MS = 2_000;

export interface VolumesParts {
  /** The directory of all volumes, made by whoever made the instance. */
  readonly dir: string;
  /** What is in force now. */
  readonly config: () => Pick<Config, "http" | "quota" | "exec">;
  readonly usageRows: UsageRows;
  /** Whether a sandbox has the volume. */
  readonly inUse: (id: NamespaceId) => boolean;
  readonly encryption: Encryption;
  readonly filling?: Filling;
  readonly log: Pick<Log, "warn">;
  /** In S3 mode: what has the files besides, and puts them on the disk when they are opened. */
  readonly mirrorOf?: ((disk: Disk) => Mirror & Opener) | undefined;
}

/** What is on the disk of namespaces that are not open yet, or no more. */
export interface Disk {
  space(id: NamespaceId): Space | null;
  /** Makes names in tmp that no sweep takes for another process's. */
  readonly freshName: () => string;
  /** Puts the directory `name` of tmp in the place of `live`, which gets its name, in one step. */
  exchange(id: NamespaceId, name: string): void;
  /** Moves `live` to a name in tmp. ENOENT when there is none. */
  setAside(id: NamespaceId, name: string): void;
  /** The next lease opens the volume anew, whoever has one now. */
  forget(id: NamespaceId): void;
}

export type Volumes = ReturnType<typeof createVolumes>;

/** The namespaces' directories: `<dir>/<id>/live`, the tenant's, and `<dir>/<id>/tmp`, ours. */
export function createVolumes(parts: VolumesParts) {
  const { dir, config, usageRows, inUse, encryption, log, filling = unfilled } = parts;
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const volumes = new Descriptor(openSync(dir, OPEN_DIRECTORY | constants.O_NOFOLLOW | constants.O_CLOEXEC));
  const trash = ensureDirectory(volumes, TRASH, 0o700);
  const table = createUsageTable({ rows: usageRows, count });
  const quota = createQuota({ table, limits: () => config().quota });
  const limits = () => ({
    maxBytes: config().http.max_upload_mb * MIB,
    diskFloorBytes: config().quota.disk_floor_mb * MIB,
  });

  // What a name in tmp starts with tells whose it is: another's than this process's is left from a crash.
  const mine = `${crypto.randomUUID()}-`;
  let made = 0;
  const freshName = () => `${mine}${made++}`;

  /** Of one that was never written in there is nothing to open. */
  async function count(id: NamespaceId, most?: Amount): Promise<Count> {
    if (statusAt(volumes, id) === null && !filling.isPending(id))
      return { bytes: 0, files: 0, directories: 0, whole: true };
    return await leases.hold(id, "read", async () => {
      using space = openSpace(volumes, id);
      if (space === null) throw new Error(`the volume of ${id} is gone`);
      return await usageOf(space, most);
    });
  }

  async function ensure(id: NamespaceId): Promise<void> {
    using volume = ensureDirectory(volumes, id, 0o700);
    // Until then all below looks as if it were not there.
    await encryption.unlock(id, volume);
    if (isWhole(volumes, id)) {
      await finish(id);
      // A crash may have come between the two.
      if (filling.isPending(id)) await filling.done(id);
      return;
    }
    using tmp = ensureDirectory(volume, "tmp", 0o700);
    if (filling.isPending(id)) {
      await fill(id, volume, tmp);
      return;
    }
    // Last, so that a `live` of the tenant's says that all is there.
    using live = ensureDirectory(volume, "live", 0o755);
    fchownFd(live.fd, TENANT, TENANT);
    await Promise.all([tmp, volume, volumes].map(async ({ fd }) => syncFile(fd)));
  }

  /** What was decided of the files before a crash. */
  async function finish(id: NamespaceId): Promise<void> {
    using space = openSpace(volumes, id);
    if (space !== null) await finishAmendment(space, freshName);
  }

  /** Its files are in their place all at once. */
  async function fill(id: NamespaceId, volume: Descriptor, tmp: Descriptor): Promise<void> {
    const name = freshName();
    try {
      using root = ensureDirectory(tmp, name, 0o700);
      await filling.build(id, root);
      await syncFileSystem(root.fd);
      await rename(tmp.entry(name), volume.entry("live"));
    } catch (error) {
      await purge(tmp, name, { freshName });
      throw error;
    }
    await Promise.all([tmp, volume, volumes].map(async ({ fd }) => syncFile(fd)));
    await filling.done(id);
  }

  const disk: Disk = {
    space: (id) => openSpace(volumes, id),
    freshName,
    exchange: (id, name) => renameLive(id, name, constants.RENAME_EXCHANGE),
    setAside: (id, name) => renameLive(id, name, constants.RENAME_NOREPLACE),
    forget: (id) => leases.forget(id),
  };
  const mirror = parts.mirrorOf?.(disk);

  function renameLive(id: NamespaceId, name: string, flags: number): void {
    using volume = new Descriptor(openBeneath(volumes.fd, id, OPEN_DIRECTORY | constants.O_NOFOLLOW));
    using tmp = new Descriptor(openBeneath(volume.fd, "tmp", OPEN_DIRECTORY | constants.O_NOFOLLOW));
    renameAt(volume.fd, "live", tmp.fd, name, flags);
  }

  /** Those that are locked but for a file that was open, which may have been looked at for a moment. */
  const unfinished = new Set<NamespaceId>();

  /** One that stays unlocked, with sandboxd away or its files open for longer, is locked with those that an earlier api left so. */
  async function lock(id: NamespaceId): Promise<void> {
    const isLocked = await encryption.lock(id).catch((error: unknown) => {
      log.warn("a volume stays unlocked; it is tried again", { namespace: id, error: String(error) });
      return true;
    });
    if (unfinished.delete(id) || isLocked) return;
    unfinished.add(id);
    setTimeout(() => leases.closeUnheld(id), FINISH_AFTER_MS).unref();
  }

  const leases = createLeases({
    opener: {
      async open(id) {
        await ensure(id);
        if (mirror === undefined) return;
        await mirror.open(id);
        // Another host may have changed it since it was here.
        table.changed(id);
      },
      async close(id) {
        await mirror?.close(id);
        await lock(id);
      },
    },
    idleMs: () => config().exec.idle_s * 1000,
    inUse,
    log,
  });

  return {
    leases,
    ensure,

    /** Its files are gone when this returns; a crash in between leaves nothing that a restart doesn't delete. */
    async remove(id: NamespaceId): Promise<void> {
      table.forget(id);
      leases.forget(id);
      // Its key is destroyed; now the kernel's is too.
      await lock(id);
      const fresh = freshName();
      try {
        await rename(volumes.entry(id), trash.entry(fresh));
        await syncFile(volumes.fd);
        await purge(trash, fresh, { freshName });
      } catch (error) {
        if (codeOf(error) !== "ENOENT") throw error;
      }
      await mirror?.remove(id);
    },

    /** What can be refused before the namespace is made and the body read: a path that is no file's, or its size. */
    checkWrite(path: WorkspacePath, sizeBytes: number): void {
      checkWrite(path, sizeBytes, limits());
    },

    /** `id` is null for a namespace that does not exist: it reads as empty. */
    open(id: NamespaceId | null): Volume {
      if (id === null) return noVolume;
      const parts = { volumes, id, leases, limits: limits(), quota, freshName };
      return openVolume({ ...parts, mirror: mirror ?? unmirrored });
    },

    /** The directories of one that somebody holds a lease of. */
    space(id: NamespaceId): Space {
      const space = openSpace(volumes, id);
      if (space === null) throw new Error(`the volume of ${id} is gone`);
      return space;
    },

    /** Puts another tree in the place of a whole workspace: `ref` is its manifest. */
    async replace(id: NamespaceId, replacement: Replacement & { readonly ref: ManifestRef }): Promise<void> {
      await leases.hold(id, "read", async () => {
        using volume = new Descriptor(openBeneath(volumes.fd, id, OPEN_DIRECTORY | constants.O_NOFOLLOW));
        await mirror?.ready(id);
        const { usage } = await table.account(id);
        const more = {
          bytes: Math.max(0, replacement.bytes - usage.bytes),
          entries: Math.max(0, replacement.files - usage.files - usage.directories),
        };
        const parts = { volume, diskFloorBytes: limits().diskFloorBytes, freshName };
        const { ref, alone } = replacement;
        const mirrored = async (swap: () => Promise<void>) =>
          alone(async () => (mirror ?? unmirrored).replace(id, ref, swap));
        await quota.within(id, more, async () => replaceLive(parts, { ...replacement, alone: mirrored }));
      });
      table.changed(id);
    },

    /** Makes many changes of a workspace at once, or none. */
    async amend(id: NamespaceId, amendment: Amendment): Promise<void> {
      await leases
        .hold(id, "read", async () => {
          using space = openSpace(volumes, id);
          if (space === null) throw new Error(`the volume of ${id} is gone`);
          await mirror?.ready(id);
          const parts = {
            space,
            diskFloorBytes: limits().diskFloorBytes,
            freshName,
            onUnfinished: () => leases.forget(id),
          };
          const alone = async <T>(work: () => Promise<T>) =>
            leases.exclusive(id, async () =>
              (mirror ?? unmirrored).amend(id, async () => amendment.alone(work)),
            );
          await quota.within(id, amendment.more, async () => amendLive(parts, { ...amendment, alone }));
        })
        .finally(() => table.changed(id));
    },

    /** For the start after a crash: to be asked before `sweep`, which takes away what tells. */
    judges: () => fileJudges(async (id, look) => settling(id, look), mirror === undefined),

    countEncrypted: async () => countEncrypted(volumes),

    /** Deletes what uploads and deletions that a crash cut short have left. Calls may go on meanwhile. */
    async sweep(): Promise<number> {
      let swept = await sweepDirectory(trash);
      using all = new Descriptor(openBeneath(volumes.fd, ".", OPEN_DIRECTORY));
      for (const batch of readDirectory(all.fd)) {
        for (const { name } of batch) {
          const id = namespaceId.schema.safeParse(Buffer.from(name).toString());
          if (!id.success) continue;
          if (!mayBeUnfinished(volumes, id.data)) continue;
          swept += await holdOnDisk(id.data, async () => {
            using space = openSpace(volumes, id.data);
            return space === null ? 0 : await sweepDirectory(space.tmp);
          });
        }
      }
      return swept;
    },

    mirror: mirror ?? unmirrored,

    /** What namespaces have, and may have. */
    table,
    quota,

    close(): void {
      table.close();
      leases.stop();
      trash[Symbol.dispose]();
      volumes[Symbol.dispose]();
    },
  };

  /** For what has to do with this disk alone: in S3 mode a start must not take a namespace from another host. */
  async function holdOnDisk<T>(id: NamespaceId, work: () => Promise<T>): Promise<T> {
    if (mirror === undefined) return await leases.hold(id, "read", work);
    await ensure(id);
    return await work();
  }

  /** What a start finds of a namespace; null when it was deleted. At a host's start sandboxd may be a moment behind. */
  async function settling<T>(id: NamespaceId, look: (space: Space | null) => Promise<T>): Promise<T> {
    for (const deadline = Date.now() + SETTLE_PATIENCE_MS; ; await Bun.sleep(SETTLE_PAUSE_MS)) {
      if (statusAt(volumes, id) === null && !filling.isPending(id)) return await look(null);
      try {
        return await holdOnDisk(id, async () => {
          using space = openSpace(volumes, id);
          return await look(space);
        });
      } catch (error) {
        if (!(error instanceof AppError)) throw error;
        if (error.code === "not_found") return await look(null);
        if (error.code !== "unavailable" || Date.now() > deadline) throw error;
      }
    }
  }

  async function sweepDirectory(dir: Descriptor): Promise<number> {
    let swept = 0;
    using listed = new Descriptor(openBeneath(dir.fd, ".", OPEN_DIRECTORY));
    for (const batch of readDirectory(listed.fd)) {
      for (const { name } of batch) {
        const text = Buffer.from(name).toString();
        // What was decided is being made by whoever opened the volume.
        if (text.startsWith(mine) || text === REDO) continue;
        await purge(dir, text, { freshName });
        swept++;
      }
    }
    return swept;
  }
}

function isWhole(volumes: Descriptor, id: NamespaceId): boolean {
  using space = openSpace(volumes, id);
  return space !== null && statFd(space.live.fd).uid === TENANT;
}

/**
 * Whether something is in a namespace's tmp. Asked of every one at a start, so without its key: what stands in for names
 * then does not tell tmp from live, but whose they are does.
 */
function mayBeUnfinished(volumes: Descriptor, id: NamespaceId): boolean {
  using volume = new Descriptor(openBeneath(volumes.fd, id, OPEN_DIRECTORY | constants.O_NOFOLLOW));
  for (const batch of readDirectory(volume.fd)) {
    for (const { name, kind } of batch) {
      if (kind !== "directory" || statAt(volume.fd, name).uid === TENANT) continue;
      using tmp = new Descriptor(openBeneath(volume.fd, name, OPEN_DIRECTORY | constants.O_NOFOLLOW));
      if (!isEmptyDirectory(tmp.fd)) return true;
    }
  }
  return false;
}

function ensureDirectory(parent: Descriptor, name: string, mode: number): Descriptor {
  try {
    mkdirAt(parent.fd, name, mode);
  } catch (error) {
    if (codeOf(error) !== "EEXIST") throw error;
  }
  const dir = new Descriptor(
    openBeneath(parent.fd, name, OPEN_DIRECTORY | constants.O_NOFOLLOW, 0, { noSymlinks: true }),
  );
  // The process's umask had its say in mkdir.
  fchmodFd(dir.fd, mode);
  return dir;
}
