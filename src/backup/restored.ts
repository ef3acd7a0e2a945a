import { eq } from "drizzle-orm";
import { createSealedBlobs } from "../blobs/sealed.ts";
import type { BlobStore } from "../blobs/store.ts";
import type { Database } from "../db/open.ts";
import { restores, snapshots } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import type { NamespaceKeys } from "../keys/namespace-keys.ts";
import type { Log } from "../log.ts";
import { buildTree } from "../snapshots/build.ts";
import { manifestRef } from "../snapshots/manifest.ts";
import type { Filling } from "../volumes/filling.ts";
import type { Leases } from "../volumes/leases.ts";

export interface RestoredFilesParts {
  readonly db: Database;
  readonly store: BlobStore;
  readonly keys: Pick<NamespaceKeys, "of">;
}

/**
 * The files of a restored appliance: its blobs are all there, and each namespace's files are made of them when they are
 * first used, or in the background.
 */
export async function openRestoredFiles({ db, store, keys }: RestoredFilesParts) {
  const rows = await db.select({ id: restores.namespaceId }).from(restores);
  const pending = new Set(rows.map(({ id }) => id));

  const filling: Filling = {
    isPending: (id) => pending.has(id),

    async build(id, root) {
      const [row] = await db
        .select({ manifest: snapshots.manifest })
        .from(restores)
        .innerJoin(snapshots, eq(snapshots.id, restores.snapshotId))
        .where(eq(restores.namespaceId, id));
      if (row === undefined)
        throw new AppError("internal", `The snapshot that ${id} is restored from is gone.`);
      const blobs = createSealedBlobs({ store, namespace: id, key: await keys.of(id) });
      await buildTree({ blobs, ref: manifestRef.parse(row.manifest) }, root);
    },

    async done(id) {
      await db.delete(restores).where(eq(restores.namespaceId, id));
      pending.delete(id);
    },
  };

  return {
    filling,

    /** One after the other, so that calls come first. What fails is told, and tried again when it is used. */
    async fillAll(leases: Pick<Leases, "hold">, log: Log): Promise<void> {
      for (const id of pending) {
        await leases
          .hold(id, "read", async () => {})
          .catch((error: unknown) => {
            log.error("a namespace's files could not be restored", { namespace: id, cause: error });
          });
      }
    },
  };
}
