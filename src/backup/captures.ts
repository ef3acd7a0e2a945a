import { rmSync, statSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { and, asc, eq, gt, isNull } from "drizzle-orm";
import type { Holds } from "../blobs/holds.ts";
import type { BlobStore } from "../blobs/store.ts";
import { migrations } from "../db/migrations.ts";
import { copyOnline } from "../db/online-copy.ts";
import { openCopy, type Database } from "../db/open.ts";
import { copyFromServer } from "../db/server/transfer.ts";
import { namespaces as table, snapshots } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import type { Log } from "../log.ts";
import { manifestRef, type ManifestRef } from "../snapshots/manifest.ts";
import type { Capture, Missed, Progress, SourceNamespace } from "./source.ts";

const COPY = /^backup-copy-/;
const PAGE = 200;
/** Of looking for namespaces that were made meanwhile. */
const ROUNDS = 4;

export interface CapturesParts {
  readonly db: Database;
  /** The database's file, when it is in one. */
  readonly file: string;
  /** For the copy of it, on the same file system. */
  readonly dir: string;
  readonly store: Pick<BlobStore, "get">;
  readonly holds: Pick<Holds, "share" | "pin">;
  /** Takes a snapshot of a namespace's files for the backup, in place of the last one. */
  readonly capture: (id: NamespaceId) => Promise<void>;
  readonly log: Pick<Log, "error">;
}

export type Captures = ReturnType<typeof createCaptures>;

/** Holds the appliance still for a backup, one at a time: calls go on meanwhile. */
export function createCaptures({ db, file, dir, store, holds, capture, log }: CapturesParts) {
  let busy = false;

  async function ids(): Promise<NamespaceId[]> {
    const rows = await db.select({ id: table.id }).from(table).where(isNull(table.deletingAt));
    return rows.map(({ id }) => id);
  }

  async function exists(id: NamespaceId): Promise<boolean> {
    const [row] = await db.select({ deletingAt: table.deletingAt }).from(table).where(eq(table.id, id));
    return row?.deletingAt === null;
  }

  /**
   * What keeps one namespace's files from being captured, such as commands that write without end, must not keep all
   * others out of a backup. One that is deleted meanwhile is nobody's fault. Why it was not; null when it was.
   */
  async function captureOne(id: NamespaceId): Promise<unknown> {
    try {
      await capture(id);
      return null;
    } catch (error) {
      return (await exists(id)) ? error : null;
    }
  }

  async function captureAll(progress: Progress): Promise<Missed[]> {
    const missed: Missed[] = [];
    const seen = new Set<NamespaceId>();
    // Those that were made meanwhile too, which are ever fewer.
    for (let round = 0; round < ROUNDS; round++) {
      const all = await ids();
      const fresh = all.filter((id) => !seen.has(id));
      for (const id of fresh) {
        progress("files of namespaces", seen.size, all.length);
        seen.add(id);
        const error = await captureOne(id);
        if (error === null) continue;
        log.error("a namespace's files could not be captured for a backup", { namespace: id, cause: error });
        missed.push({
          namespace: id,
          reason: error instanceof AppError ? error.message : "The log says why.",
        });
      }
      if (fresh.length === 0) break;
    }
    return missed;
  }

  /**
   * Copies the database while nobody can collect blobs, and keeps those that the copy names from being collected
   * until `ended`.
   */
  async function copyAndPin(to: string, ended: Promise<void>): Promise<void> {
    const copied = Promise.withResolvers<Copy>();
    copied.promise.catch(() => {});
    const pinned: Promise<void>[] = [];
    const shared = (await ids()).map(async (id) => {
      const entered = Promise.withResolvers<void>();
      const pinning = holds.share(id, async () => {
        entered.resolve();
        const copy = await copied.promise;
        for (const manifest of await manifestsIn(copy, id)) {
          const { release } = await holds.pin(id, async () => ({ manifest }));
          void ended.then(release);
        }
      });
      pinned.push(pinning);
      pinning.catch(() => {});
      await Promise.race([entered.promise, pinning]);
    });
    await Promise.all(shared);
    try {
      if (db.place === "file") await copyOnline(file, to);
      else await copyFromServer(db, to);
    } catch (error) {
      copied.reject(error);
      throw error;
    }
    await withCopy(to, async (copy) => {
      copied.resolve(copy);
      await Promise.all(pinned);
    });
  }

  return {
    /** What copies a crash has left. Before any call. */
    async sweep(): Promise<void> {
      for (const name of await readdir(dir)) if (COPY.test(name)) rmSync(join(dir, name));
    },

    /**
     * `withFiles`: also of what the namespaces' files are now. The capture counts until `end`, which has to be called.
     */
    async begin(withFiles: boolean, progress: Progress): Promise<Capture & { end(): void }> {
      if (busy) throw new AppError("busy", "A backup is under way; try again once it has ended.");
      busy = true;
      const copy = join(dir, `backup-copy-${crypto.randomUUID()}.db`);
      const ended = Promise.withResolvers<void>();
      const end = () => {
        for (const suffix of ["", "-wal", "-shm"]) rmSync(copy + suffix, { force: true });
        ended.resolve();
        busy = false;
      };
      try {
        const missed = withFiles ? await captureAll(progress) : [];
        progress("bytes of the database", 0, null);
        await copyAndPin(copy, ended.promise);
        const namespaceCount = await countOf(copy);
        return {
          databaseVersion: migrations.length,
          databaseBytes: statSync(copy).size,
          namespaceCount,
          missed,
          database: () => Bun.file(copy).stream(),
          namespaces: () => namespacesIn(copy),
          blob: async (key) => store.get(key),
          exists,
          end,
        };
      } catch (error) {
        end();
        throw error;
      }
    },
  };
}

type Copy = Awaited<ReturnType<typeof openCopy>>;

async function withCopy<T>(copy: string, work: (db: Copy) => Promise<T>): Promise<T> {
  const db = await openCopy(copy);
  try {
    return await work(db);
  } finally {
    db.close();
  }
}

async function manifestsIn(db: Copy, id: NamespaceId): Promise<ManifestRef[]> {
  const rows = await db
    .select({ manifest: snapshots.manifest })
    .from(snapshots)
    .where(eq(snapshots.namespaceId, id));
  return rows.map(({ manifest }) => manifestRef.parse(manifest));
}

async function countOf(copy: string): Promise<number> {
  return withCopy(copy, async (db) => db.$count(table, isNull(table.deletingAt)));
}

/** In the order of their ids, so many at a time. */
async function* namespacesIn(copy: string): AsyncGenerator<SourceNamespace, void> {
  const db = await openCopy(copy);
  try {
    for (let last = "" as NamespaceId; ;) {
      const page = await db
        .select({ id: table.id, wrappedKey: table.wrappedKey })
        .from(table)
        .where(and(isNull(table.deletingAt), gt(table.id, last)))
        .orderBy(asc(table.id))
        .limit(PAGE);
      for (const { id, wrappedKey } of page) {
        yield { id, wrappedKey, manifests: await manifestsIn(db, id) };
        last = id;
      }
      if (page.length < PAGE) return;
    }
  } finally {
    db.close();
  }
}
