import type { Holds } from "../blobs/holds.ts";
import type { SealedBlobs } from "../blobs/sealed.ts";
import type { BlobStore } from "../blobs/store.ts";
import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import type { Log } from "../log.ts";
import { unmirrored, type Mirror } from "../remote/mirror.ts";
import { collect, removeAll, type Collected } from "./gc.ts";
import type { SnapshotRows } from "./rows.ts";

export interface TidyParts {
  readonly rows: Pick<SnapshotRows, "manifests" | "namespaces">;
  readonly store: BlobStore;
  readonly blobsOf: (id: NamespaceId) => Promise<SealedBlobs>;
  readonly holds: Holds;
  /** Knows what blobs have to stay for besides snapshots. */
  readonly mirror?: Pick<Mirror, "collecting"> | undefined;
  readonly log: Pick<Log, "warn">;
}

export interface CollectedAll extends Collected {
  readonly namespaces: number;
  /** Namespaces in which it did not work; the log says why. */
  readonly failed: number;
}

/** Deletes blobs that nothing needs, of one namespace after the other. */
export function createTidy({ rows, store, blobsOf, holds, mirror = unmirrored, log }: TidyParts) {
  /** Namespaces that may have such blobs; and those in which it failed. */
  const littered = new Set<NamespaceId>();
  const failed = new Set<NamespaceId>();
  let running: Promise<void> | null = null;
  let stopping = false;

  async function collectIn(id: NamespaceId): Promise<Collected | null> {
    try {
      const blobs = await blobsOf(id);
      return await holds.alone(id, async () => {
        // What is littered from here on, this look may miss.
        littered.delete(id);
        failed.delete(id);
        const collected = await mirror.collecting(id, async ({ roots, until }) => {
          const named = await rows.manifests(id);
          return await collect({ store, blobs, until }, id, [...named, ...holds.pins(id), ...roots]);
        });
        return collected ?? { blobs: 0, bytes: 0 };
      });
    } catch (error) {
      // Its deletion takes all that it has.
      if (error instanceof AppError && error.code === "not_found") return { blobs: 0, bytes: 0 };
      failed.add(id);
      log.warn("blobs that nothing needs any more could not be deleted; it is tried again", {
        namespace: id,
        error: String(error),
      });
      return null;
    }
  }

  async function run(): Promise<void> {
    // Those that come meanwhile are visited too.
    for (const id of littered) {
      if (stopping) return;
      littered.delete(id);
      await collectIn(id);
    }
  }

  const start = (): Promise<void> =>
    (running ??= run().finally(() => {
      running = null;
    }));

  return {
    /** Something of this namespace's may be needed no more. */
    soon(id: NamespaceId): void {
      littered.add(id);
      void start();
    },

    /** Tries once more what failed. */
    again(): void {
      for (const id of failed) littered.add(id);
      failed.clear();
      void start();
    },

    /** In every namespace: also what a crash has left. */
    async all(): Promise<CollectedAll> {
      const total = { namespaces: 0, failed: 0, blobs: 0, bytes: 0 };
      for (const id of await rows.namespaces()) {
        if (stopping) break;
        const collected = await collectIn(id);
        total.namespaces += 1;
        total.failed += Number(collected === null);
        total.blobs += collected?.blobs ?? 0;
        total.bytes += collected?.bytes ?? 0;
      }
      return total;
    },

    /** All that the store has of a deleted namespace, whose key is destroyed. */
    async removeNamespace(id: NamespaceId): Promise<void> {
      littered.delete(id);
      await holds.alone(id, async () => removeAll(store, id));
    },

    /** Resolves when nothing goes on any more; nothing begins after. */
    async stop(): Promise<void> {
      stopping = true;
      await running;
    },

    /** Resolves when what was littered before this call is collected. */
    async idle(): Promise<void> {
      await running;
      await start();
    },
  };
}
