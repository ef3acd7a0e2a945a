import { eq } from "drizzle-orm";
import type { Announce } from "../audit/announce.ts";
import { APPLIANCE, type EventData, type EventDraft } from "../audit/event.ts";
import { unchanged, type Ledger } from "../audit/ledger.ts";
import type { Holds } from "../blobs/holds.ts";
import { DamagedBlob, type SealedBlobs } from "../blobs/sealed.ts";
import type { BlobStore } from "../blobs/store.ts";
import type { Config } from "../config/schema.ts";
import type { Database } from "../db/open.ts";
import { snapshots as table } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import { snapshotId, type NamespaceId, type WorkspaceId } from "../ids.ts";
import type { Log } from "../log.ts";
import type { Mirror } from "../remote/mirror.ts";
import { createAdmission } from "../sandbox/admission.ts";
import { createPause } from "../volumes/pause.ts";
import type { Volumes } from "../volumes/volumes.ts";
import { tarOf } from "./archive.ts";
import { buildTree } from "./build.ts";
import { checkSnapshots } from "./count.ts";
import { dataBytesOf, readHead, type ManifestRef } from "./manifest.ts";
import { createSnapshotRows, noSnapshot, type OwnedSnapshot, type Snapshot } from "./rows.ts";
import { createTidy } from "./tidy.ts";
import { createVerifier, hurt, type Damage, type Verified, type Verifier } from "./verify.ts";

const DAY_MS = 24 * 60 * 60_000;
/** Snapshots and restores at once, and of one namespace: its own would only wait for one another. */
const WORK = { concurrency: 4, perNamespace: 1, queue: 200, maxWaitMs: 30_000 };
/** Old snapshots that are removed in one transaction. */
const EXPIRED_BATCH = 100;

/** Who asks, and for which namespace. */
export interface SnapshotCall {
  readonly namespaceId: NamespaceId;
  readonly workspaceId: WorkspaceId;
  /** Aborted when its key or its namespace ends. */
  readonly signal: AbortSignal;
  readonly event: (type: string, data: EventData) => EventDraft;
}

/** Makes the manifest of what a namespace has now; all of it is durable when it resolves. */
export interface Maker {
  create(
    id: NamespaceId,
    options: { readonly base: ManifestRef | null; readonly signal: AbortSignal },
  ): Promise<Pick<Snapshot, "manifest" | "sizeBytes" | "storedBytes" | "fileCount" | "skipped">>;
}

export interface SnapshotsParts {
  readonly db: Database;
  readonly ledger: Pick<Ledger, "change" | "begin">;
  readonly volumes: Pick<Volumes, "replace" | "leases">;
  readonly store: BlobStore;
  /** Throws AppError not_found for a namespace whose key is destroyed. */
  readonly blobsOf: (id: NamespaceId) => Promise<SealedBlobs>;
  readonly holds: Holds;
  readonly maker: Maker;
  /** Ends a namespace's sandbox, whose mount pins the directory that it was started with. */
  readonly stopSandbox: (id: NamespaceId) => Promise<void>;
  readonly mirror?: Pick<Mirror, "collecting">;
  readonly limits: () => { readonly quota: Config["quota"]; readonly retentionDays: number };
  readonly log: Log;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
}

export interface VerifiedSnapshot extends Verified {
  readonly snapshot: OwnedSnapshot;
}

export type Snapshots = ReturnType<typeof createSnapshots>;

/** The snapshots of namespaces. Each is a row, and blobs that it shares with others of its namespace. */
export function createSnapshots(parts: SnapshotsParts) {
  const { db, ledger, volumes, blobsOf, holds, maker, now = Date.now } = parts;
  const rows = createSnapshotRows(db);
  const work = createAdmission(() => WORK);
  const tidy = createTidy({ ...parts, rows });
  /**
   * Namespaces with a blob that is known to be damaged. Their next snapshot trusts none before it: it reads all files and
   * stores them anew, in the place of what was damaged if it is still in them.
   */
  const damaged = new Set<NamespaceId>();
  const stopping = new AbortController();

  async function inTurn<T>(call: SnapshotCall, run: (call: SnapshotCall) => Promise<T>): Promise<T> {
    const signal = AbortSignal.any([call.signal, stopping.signal]);
    const release = await work.admit(call.namespaceId, signal);
    try {
      return await run({ ...call, signal });
    } finally {
      release();
    }
  }

  const deletion = (snapshot: Snapshot) => db.delete(table).where(eq(table.id, snapshot.id));
  const about = ({ id, label }: Pick<Snapshot, "id" | "label">) => ({ snapshot_id: id, label });

  async function made(call: SnapshotCall, label: string | null): Promise<Snapshot> {
    const { namespaceId, workspaceId, signal } = call;
    const checkRoom = async () => checkSnapshots(db, parts.limits().quota, { namespaceId, workspaceId });
    // Once more in the change that adds it: this one saves the work.
    await checkRoom();
    const [newest] = await rows.list(namespaceId);
    // What is found from here on, this one may not mend.
    const mends = damaged.delete(namespaceId);
    const base = mends ? null : (newest?.manifest ?? null);
    const found = await maker.create(namespaceId, { base, signal }).catch((error: unknown) => {
      if (mends) damaged.add(namespaceId);
      throw error;
    });
    const { manifest, sizeBytes, storedBytes, fileCount, skipped } = found;
    const counted = { sizeBytes, storedBytes, fileCount, skipped };
    const id = snapshotId.make();
    const snapshot = {
      id,
      namespaceId,
      kind: "user" as const,
      label,
      createdAt: now(),
      manifest,
      ...counted,
    };
    const data = {
      ...about(snapshot),
      size_bytes: sizeBytes,
      stored_bytes: storedBytes,
      file_count: fileCount,
      skipped,
    };
    await ledger.change(async () => {
      await checkRoom();
      const events = [call.event("snapshot.created", data)];
      return { statements: [db.insert(table).values(snapshot)], events, result: undefined };
    });
    return snapshot;
  }

  return {
    list: async (namespaceId: NamespaceId) => rows.list(namespaceId),

    namespaces: async () => rows.namespaces(),

    async create(asked: SnapshotCall, label: string | null): Promise<Snapshot> {
      const { namespaceId } = asked;
      return inTurn(asked, async (call) => {
        try {
          return await holds.share(namespaceId, async () => made(call, label));
        } catch (error) {
          // It may have stored blobs.
          tidy.soon(namespaceId);
          throw error;
        }
      });
    },

    /** How many files there are then. The snapshot stays. */
    async restore(asked: SnapshotCall, id: string): Promise<number> {
      const { namespaceId } = asked;
      return inTurn(asked, async (call) => {
        const { signal } = call;
        const { found: snapshot, release } = await holds.pin(namespaceId, async () =>
          rows.find(namespaceId, id),
        );
        try {
          const { manifest: ref, sizeBytes, fileCount } = snapshot;
          const blobs = await blobsOf(namespaceId);
          const announce: Announce = async (data) =>
            ledger.begin({ ...call.event("snapshot.restored", data), namespaceId });
          const readable = async <T>(read: () => Promise<T>): Promise<T> => {
            try {
              return await read();
            } catch (error) {
              if (!(error instanceof DamagedBlob)) throw error;
              tell(snapshot, error);
              throw await refused(snapshot, blobs, error);
            }
          };
          await volumes.replace(namespaceId, {
            ref,
            bytes: sizeBytes,
            files: fileCount,
            data: { ...about(snapshot), files_restored: fileCount },
            announce,
            dataBytes: async () => readable(async () => dataBytesOf(blobs, ref, createPause(signal))),
            build: async (dir, checkRoom) =>
              readable(async () => void (await buildTree({ blobs, ref, signal, checkRoom }, dir))),
            alone: async (swap) =>
              volumes.leases.exclusive(namespaceId, async () => {
                // Its namespace may be on its way out.
                signal.throwIfAborted();
                await parts.stopSandbox(namespaceId);
                await swap();
              }),
          });
          return fileCount;
        } finally {
          release();
        }
      });
    },

    async remove(call: SnapshotCall, id: string): Promise<void> {
      await ledger.change(async () => {
        const snapshot = await rows.find(call.namespaceId, id);
        const events = [call.event("snapshot.deleted", about(snapshot))];
        return { statements: [deletion(snapshot)], events, result: undefined };
      });
      tidy.soon(call.namespaceId);
    },

    /** Its files as a tar archive. `end` has to be called, once; until then its blobs stay, whatever becomes of it. */
    async download(namespaceId: NamespaceId | null, id: string) {
      if (namespaceId === null) throw noSnapshot(id);
      const { found, release } = await holds.pin(namespaceId, async () => rows.find(namespaceId, id));
      try {
        const blobs = await blobsOf(namespaceId);
        // What fails from here on breaks the connection.
        await readHead(blobs, found.manifest);
        return { snapshot: found, tar: logged(found, tarOf({ blobs, ref: found.manifest })), end: release };
      } catch (error) {
        release();
        throw error;
      }
    },

    /** Removes those that are older than the limit; how many. */
    async expire(): Promise<number> {
      for (let removed = 0; ;) {
        const old = await rows.olderThan(now() - parts.limits().retentionDays * DAY_MS, EXPIRED_BATCH);
        if (old.length === 0) return removed;
        await ledger.change(async () => {
          const left = await rows.stillThere(old.map((one) => one.id));
          const going = old.filter((one) => left.has(one.id));
          if (going.length === 0) return unchanged(undefined);
          return { statements: going.map(deletion), events: going.map(expired), result: undefined };
        });
        removed += old.length;
        for (const { namespaceId } of old) tidy.soon(namespaceId);
      }
    },

    /** Reads all that these snapshots need; each as it is done. */
    async *verify(
      of: Parameters<typeof rows.owned>[0],
      { signal, pace }: { readonly signal?: AbortSignal; readonly pace?: () => Promise<void> } = {},
    ): AsyncGenerator<VerifiedSnapshot, void> {
      const verifiers = new Map<NamespaceId, Verifier>();
      for (const snapshot of await rows.owned(of)) {
        const { id, namespaceId } = snapshot;
        // It may have been deleted since, alone or with its namespace.
        const pinned = await holds.pin(namespaceId, async () => rows.still(id)).catch(absentAsNull);
        if (pinned === null) continue;
        try {
          const verifier = verifiers.get(namespaceId) ?? createVerifier(await blobsOf(namespaceId), pace);
          // They come namespace by namespace.
          verifiers.clear();
          verifiers.set(namespaceId, verifier);
          const verified = await verifier.verify(snapshot.manifest, signal);
          if (verified.damage.length > 0) damaged.add(namespaceId);
          yield { snapshot, ...verified };
        } finally {
          pinned.release();
        }
      }
    },

    tidy,

    /** Ends what is under way, as if it had never begun, and takes no more. */
    async stop(): Promise<void> {
      stopping.abort(new AppError("unavailable", "The server is stopping.", { retryAfterS: 5 }));
      await work.idle();
      await tidy.stop();
    },
  };

  function tell({ id, namespaceId }: Snapshot, { blob, reason }: DamagedBlob): void {
    damaged.add(namespaceId);
    parts.log.error("a snapshot is damaged", { namespace: namespaceId, snapshot: id, blob, reason });
  }

  /** Who takes it sees no more than a connection that breaks. */
  async function* logged(
    snapshot: Snapshot,
    tar: AsyncGenerator<Uint8Array, void>,
  ): AsyncGenerator<Uint8Array, void> {
    try {
      yield* tar;
    } catch (error) {
      if (error instanceof DamagedBlob) tell(snapshot, error);
      else parts.log.error("a download of a snapshot failed", { snapshot: snapshot.id, cause: error });
      throw error;
    }
  }

  function expired(snapshot: OwnedSnapshot): EventDraft {
    const data = { ...about(snapshot), reason: "retention" };
    const { workspaceId: chain, namespace } = snapshot;
    return { chain, type: "snapshot.deleted", namespace, data, origin: APPLIANCE };
  }
}

function absentAsNull(error: unknown): null {
  if (error instanceof AppError && error.code === "not_found") return null;
  throw error;
}

/** Why nothing was restored, and what would have been wrong. */
async function refused(snapshot: Snapshot, blobs: SealedBlobs, error: DamagedBlob): Promise<AppError> {
  const [damage] = await hurt(blobs, snapshot.manifest, new Map([[error.blob, error.reason]])).catch(
    // The list of files itself.
    (): Damage[] => [],
  );
  const [path = "its list of files", ...others] = damage?.paths ?? [];
  const rest = others.length + (damage?.more ?? 0);
  const hurts = rest === 0 ? path : `${path} and ${rest} more ${rest === 1 ? "file" : "files"}`;
  return new AppError(
    "internal",
    `Nothing was changed: the snapshot is damaged at ${hurts} (blob ${error.blob}: ${error.reason}). Restore another one.`,
    { cause: error },
  );
}
