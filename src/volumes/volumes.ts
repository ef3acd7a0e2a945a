import { mkdirSync, openSync } from "node:fs";
import { rename } from "node:fs/promises";
import type { Config } from "../config/schema.ts";
import { namespaceId, type NamespaceId } from "../ids.ts";
import { readDirectory, statFd } from "../kernel/directory.ts";
import type { Log } from "../log.ts";
import { constants, fchmodFd, fchownFd, mkdirAt, openBeneath } from "../kernel/openat2.ts";
import { OPEN_DIRECTORY } from "./beneath.ts";
import { Descriptor } from "./descriptor.ts";
import { syncFile } from "./disk.ts";
import { codeOf } from "./failure.ts";
import { createLeases } from "./leases.ts";
import { TENANT } from "./parents.ts";
import { purge } from "./purge.ts";
import { fileJudges } from "./fate.ts";
import { createFileQuota } from "./quota.ts";
import { openSpace } from "./space.ts";
import type { WorkspacePath } from "./path.ts";
import { noVolume, openVolume, type Volume } from "./volume.ts";
import { checkWrite } from "./write.ts";

/** Removed namespaces, until they are deleted. No namespace's id looks like this. */
const TRASH = ".trash";
const MIB = 1024 * 1024;

export interface VolumesParts {
  /** The directory of all volumes, made by whoever made the instance. */
  readonly dir: string;
  /** What is in force now. */
  readonly config: () => Pick<Config, "http" | "quota" | "exec">;
  /** Whether a sandbox has the volume. */
  readonly inUse: (id: NamespaceId) => boolean;
  readonly log: Pick<Log, "warn">;
}

export type Volumes = ReturnType<typeof createVolumes>;

/** The namespaces' directories: `<dir>/<id>/live`, the tenant's, and `<dir>/<id>/tmp`, ours. */
export function createVolumes({ dir, config, inUse, log }: VolumesParts) {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const volumes = new Descriptor(openSync(dir, OPEN_DIRECTORY | constants.O_NOFOLLOW | constants.O_CLOEXEC));
  const trash = ensureDirectory(volumes, TRASH, 0o700);
  const quota = createFileQuota(() => config().quota.namespace_files);
  const limits = () => ({
    maxBytes: config().http.max_upload_mb * MIB,
    diskFloorBytes: config().quota.disk_floor_mb * MIB,
  });

  // What a name in tmp starts with tells whose it is: another's than this process's is left from a crash.
  const mine = `${crypto.randomUUID()}-`;
  let made = 0;
  const freshName = () => `${mine}${made++}`;

  async function ensure(id: NamespaceId): Promise<void> {
    if (isWhole(volumes, id)) return;
    using volume = ensureDirectory(volumes, id, 0o700);
    using tmp = ensureDirectory(volume, "tmp", 0o700);
    // Last, so that a `live` of the tenant's says that all is there.
    using live = ensureDirectory(volume, "live", 0o755);
    fchownFd(live.fd, TENANT, TENANT);
    await Promise.all([tmp, volume, volumes].map(async ({ fd }) => syncFile(fd)));
  }

  const leases = createLeases({
    opener: { open: ensure, close: async () => {} },
    idleMs: () => config().exec.idle_s * 1000,
    inUse,
    log,
  });

  return {
    leases,
    ensure,

    /** Its files are gone when this returns; a crash in between leaves nothing that a restart doesn't delete. */
    async remove(id: NamespaceId): Promise<void> {
      quota.forget(id);
      leases.forget(id);
      const fresh = freshName();
      try {
        await rename(volumes.entry(id), trash.entry(fresh));
      } catch (error) {
        if (codeOf(error) === "ENOENT") return;
        throw error;
      }
      await syncFile(volumes.fd);
      await purge(trash, fresh, freshName);
    },

    /** What can be refused before the namespace is made and the body read: a path that is no file's, or its size. */
    checkWrite(path: WorkspacePath, sizeBytes: number): void {
      checkWrite(path, sizeBytes, limits());
    },

    /** `id` is null for a namespace that does not exist: it reads as empty. */
    open(id: NamespaceId | null): Volume {
      if (id === null) return noVolume;
      return openVolume({ volumes, id, leases, limits: limits(), quota, freshName });
    },

    /** For the start after a crash: to be asked before `sweep`, which takes away what tells. */
    judges: () => fileJudges((id) => openSpace(volumes, id)),

    /** Deletes what uploads and deletions that a crash cut short have left. Calls may go on meanwhile. */
    async sweep(): Promise<number> {
      let swept = await sweepDirectory(trash);
      using all = new Descriptor(openBeneath(volumes.fd, ".", OPEN_DIRECTORY));
      for (const batch of readDirectory(all.fd)) {
        for (const { name } of batch) {
          const id = namespaceId.schema.safeParse(Buffer.from(name).toString());
          if (!id.success) continue;
          using space = openSpace(volumes, id.data);
          if (space !== null) swept += await sweepDirectory(space.tmp);
        }
      }
      return swept;
    },

    close(): void {
      leases.stop();
      trash[Symbol.dispose]();
      volumes[Symbol.dispose]();
    },
  };

  async function sweepDirectory(dir: Descriptor): Promise<number> {
    let swept = 0;
    using listed = new Descriptor(openBeneath(dir.fd, ".", OPEN_DIRECTORY));
    for (const batch of readDirectory(listed.fd)) {
      for (const { name } of batch) {
        const text = Buffer.from(name).toString();
        if (text.startsWith(mine)) continue;
        await purge(dir, text, freshName);
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
