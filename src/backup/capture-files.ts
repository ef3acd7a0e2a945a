import { and, desc, eq, ne } from "drizzle-orm";
import type { Holds } from "../blobs/holds.ts";
import type { Database } from "../db/open.ts";
import { snapshots as table } from "../db/schema.ts";
import { snapshotId, type NamespaceId } from "../ids.ts";
import type { SnapshotMaker } from "../snapshots/create.ts";
import { manifestRef } from "../snapshots/manifest.ts";

export interface CaptureFilesParts {
  readonly db: Database;
  readonly holds: Pick<Holds, "share">;
  readonly maker: SnapshotMaker;
}

/** A snapshot that no caller sees: what a backup has of the namespace's files. Each takes the place of the last. */
export function createFileCapture({ db, holds, maker }: CaptureFilesParts) {
  return async (id: NamespaceId): Promise<void> =>
    holds.share(id, async () => {
      const [newest] = await db
        .select({ manifest: table.manifest })
        .from(table)
        .where(eq(table.namespaceId, id))
        .orderBy(desc(table.createdAt))
        .limit(1);
      const made = await maker.create(id, {
        base: newest === undefined ? null : manifestRef.parse(newest.manifest),
      });
      const { manifest, sizeBytes, storedBytes, fileCount, skipped } = made;
      const row = {
        id: snapshotId.make(),
        namespaceId: id,
        kind: "backup" as const,
        label: null,
        createdAt: Date.now(),
        manifest,
        sizeBytes,
        storedBytes,
        fileCount,
        skipped,
      };
      await db.batch([
        db.insert(table).values(row),
        db
          .delete(table)
          .where(and(eq(table.namespaceId, id), eq(table.kind, "backup"), ne(table.id, row.id))),
      ]);
    });
}
