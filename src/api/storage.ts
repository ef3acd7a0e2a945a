import { settleIntents } from "../audit/settle.ts";
import type { Ledger } from "../audit/ledger.ts";
import { createFileCapture } from "../backup/capture-files.ts";
import { createCaptures } from "../backup/captures.ts";
import { openRestoredFiles } from "../backup/restored.ts";
import { createHolds } from "../blobs/holds.ts";
import type { BlobStore } from "../blobs/store.ts";
import type { Config } from "../config/schema.ts";
import type { Database } from "../db/open.ts";
import type { NamespaceId } from "../ids.ts";
import type { Instance } from "../instance/instance.ts";
import { createNamespaceKeys } from "../keys/namespace-keys.ts";
import type { Log } from "../log.ts";
import { createEpochs } from "../remote/epochs.ts";
import { hostOf } from "../remote/host.ts";
import { createRemote } from "../remote/remote.ts";
import { createRunRows } from "../runs/rows.ts";
import { createWorktrees, mergeJudge } from "../runs/worktree/worktrees.ts";
import type { Connections } from "../sandbox/connections.ts";
import { createExec } from "../sandbox/exec.ts";
import type { ExecMeter } from "../sandbox/meter.ts";
import type { SandboxdClient } from "../sandbox/sandboxd-client.ts";
import { createStandstill } from "../sandbox/standstill.ts";
import type { Secrets } from "../secrets.ts";
import { startSnapshots } from "../snapshots/start.ts";
import { createEncryption } from "../volumes/encryption.ts";
import type { Floor } from "../volumes/floor.ts";
import { createGrowth } from "../volumes/growth.ts";
import { createUsageRows } from "../volumes/usage-rows.ts";
import { createVolumes, type Disk } from "../volumes/volumes.ts";
import { execJudges } from "./exec-event.ts";

export interface StorageParts {
  readonly instance: Instance;
  /** In force when api started; `config` is what is in force now. */
  readonly first: Config;
  readonly config: () => Config;
  readonly db: Database;
  readonly ledger: Ledger;
  readonly secrets: Secrets;
  readonly store: BlobStore;
  readonly floor: Floor;
  readonly sandboxd: SandboxdClient;
  readonly connections: Connections;
  readonly meter: ExecMeter;
  /** Tells one boot of the machine from another. */
  readonly bootId: string;
  readonly log: Log;
}

/**
 * The namespaces' files and all that touches them: commands, snapshots, the bucket, backups. They know of each other
 * here alone. When this resolves, what a crash has left halfway is settled, before any call.
 */
export async function openStorage(parts: StorageParts) {
  const { instance, first, config, db, ledger, secrets, store, floor, sandboxd, log } = parts;
  const usageRows = createUsageRows(db, (workspace) => ledger.head(workspace)?.createdAt ?? 0);
  const keys = createNamespaceKeys({ db, secrets });
  const keyOf = async (id: NamespaceId) => keys.of(id);
  const holds = createHolds();
  const isWarm = (id: NamespaceId) => exec.isWarm(id);
  const stopSandbox = async (id: NamespaceId) => exec.stopNamespace(id);
  const standstill = createStandstill({ sandboxd, exec: { isWarm } });
  const restored = await openRestoredFiles({ db, store, keys });
  const remoteOf = (disk: Disk) =>
    createRemote({
      store,
      keyOf,
      epochs: createEpochs(db),
      host: hostOf(instance.api.dir, parts.bootId),
      disk,
      stopSandbox,
      standstill,
      sharing: holds.share,
      log,
    });
  const volumes = createVolumes({
    dir: instance.api.volumes,
    // With a bucket: first, and then put there, or replaced by what is there already.
    filling: restored.filling,
    config: () => ({ ...config(), http: first.http }),
    usageRows,
    inUse: isWarm,
    encryption: createEncryption({ sandboxd, keyOf }),
    log,
    mirrorOf: first.storage.kind === "local" ? undefined : remoteOf,
  });
  const growth = createGrowth({
    table: volumes.table,
    quota: volumes.quota,
    floor,
    writers: async () => {
      const { sandboxes } = await sandboxd.call("writers", {});
      return new Map(sandboxes.map(({ namespace, dirty_bytes }) => [namespace, dirty_bytes]));
    },
    log,
  });
  const exec = createExec({
    config: first,
    sandboxd,
    connections: parts.connections,
    log,
    leases: volumes.leases,
    mirror: volumes.mirror,
    growth,
    meter: parts.meter,
  });
  // Before the sweep takes away what tells.
  const runRows = createRunRows(db);
  const judges = { ...volumes.judges(), ...execJudges };
  const merged = mergeJudge(judges["run.merged"], runRows);
  await settleIntents({ db, ledger, judges: { ...judges, "run.merged": merged }, log });
  await usageRows.expire();
  const snapshots = startSnapshots({
    db,
    ledger,
    volumes,
    store,
    keys,
    standstill,
    holds,
    mirror: volumes.mirror,
    scrubs: first.storage.kind === "local",
    stopSandbox,
    limits: () => ({ quota: config().quota, retentionDays: config().snapshots.retention_days }),
    log,
  });
  const worktrees = createWorktrees({
    db,
    rows: runRows,
    ledger,
    dir: instance.api.runs,
    volumes,
    standstill,
    maker: snapshots.maker,
    holds,
    blobsOf: snapshots.blobsOf,
    checkRoom: floor.check,
    tidy: (id) => snapshots.tidy.soon(id),
    bootId: parts.bootId,
    log,
  });
  // A merge that was decided is made when its volume is opened; this is about worktrees.
  await worktrees.resume();
  const captures = createCaptures({
    db,
    file: instance.api.database,
    dir: instance.api.state,
    store,
    holds,
    capture: createFileCapture({ db, holds, maker: snapshots.maker }),
    log,
  });
  await captures.sweep();

  return {
    volumes,
    exec,
    snapshots,
    captures,
    worktrees,
    stopSandbox,

    /** A namespace whose row has lost its key: nothing of its files is left afterwards. */
    async remove(id: NamespaceId): Promise<void> {
      keys.forget(id);
      await volumes.remove(id);
      await snapshots.tidy.removeNamespace(id);
    },

    /** What an api before this one, or a deletion without sandboxd, has left unlocked. */
    async lockUnheld(): Promise<void> {
      const { namespaces } = await sandboxd.call("unlockedVolumes", {});
      for (const id of namespaces) volumes.leases.closeUnheld(id);
    },

    /** Begins what goes on while nobody asks. */
    resume(): void {
      snapshots.resume();
      void restored.fillAll(volumes.leases, log);
      const failed = "unfinished writes of an earlier run were not removed";
      volumes.sweep().then(
        (files) => files > 0 && log.info("unfinished writes of an earlier run were removed", { files }),
        (error: unknown) => log.error(failed, { cause: error }),
      );
    },
  };
}
