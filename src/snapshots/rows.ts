import { and, desc, eq, inArray, isNotNull, isNull, lt, sql } from "drizzle-orm";
import type { Database } from "../db/open.ts";
import { namespaces, runs, snapshots as table } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import { snapshotId, type NamespaceId, type SnapshotId, type WorkspaceId } from "../ids.ts";
import { manifestRef, runBase, type ManifestRef } from "./manifest.ts";

export interface Snapshot {
  readonly id: SnapshotId;
  readonly namespaceId: NamespaceId;
  readonly kind: "user" | "backup";
  readonly label: string | null;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
  /** Of the files' contents. */
  readonly sizeBytes: number;
  /** What it added to the store. */
  readonly storedBytes: number;
  readonly fileCount: number;
  /** FIFOs, sockets and devices, which it does not have. */
  readonly skipped: number;
  readonly manifest: ManifestRef;
}

/** With whose it is, for what is done without a caller. */
export interface OwnedSnapshot extends Snapshot {
  readonly workspaceId: WorkspaceId;
  readonly namespace: string;
}

/** Looks at the snapshots' rows. They are made and removed in changes of the ledger's. */
export type SnapshotRows = ReturnType<typeof createSnapshotRows>;

export function createSnapshotRows(db: Database) {
  const newestFirst = [desc(table.createdAt), desc(sql`snapshots.rowid`)];

  return {
    /** Those that callers see, newest first. */
    async list(namespaceId: NamespaceId): Promise<Snapshot[]> {
      const rows = await db
        .select()
        .from(table)
        .where(and(eq(table.namespaceId, namespaceId), eq(table.kind, "user")))
        .orderBy(...newestFirst);
      return rows.map(fromRow);
    },

    /** Of this namespace: another's looks like none. */
    async find(namespaceId: NamespaceId | null, idText: string): Promise<Snapshot> {
      const id = snapshotId.schema.safeParse(idText);
      if (namespaceId === null || !id.success) throw noSnapshot(idText);
      const [row] = await db
        .select()
        .from(table)
        .where(and(eq(table.id, id.data), eq(table.namespaceId, namespaceId), eq(table.kind, "user")));
      if (row === undefined) throw noSnapshot(idText);
      return fromRow(row);
    },

    /** Of any kind: what blobs have to stay for. The newest first. */
    async manifests(namespaceId: NamespaceId): Promise<ManifestRef[]> {
      const rows = await db
        .select({ manifest: table.manifest, createdAt: table.createdAt })
        .from(table)
        .where(eq(table.namespaceId, namespaceId));
      const bases = await db
        .select({ base: runs.base, createdAt: runs.createdAt })
        .from(runs)
        .where(and(eq(runs.namespaceId, namespaceId), isNotNull(runs.base)));
      const all = [
        ...rows.map(({ manifest, createdAt }) => ({ createdAt, manifest: manifestRef.parse(manifest) })),
        ...bases.map(({ base, createdAt }) => ({ createdAt, manifest: runBase.parse(base).manifest })),
      ];
      return all
        .sort((a, b) => b.createdAt - a.createdAt)
        .flatMap(({ manifest }) => (manifest === null ? [] : [manifest]));
    },

    /** One of any kind, if it is still there. */
    async still(id: SnapshotId): Promise<Snapshot> {
      const [row] = await db.select().from(table).where(eq(table.id, id));
      if (row === undefined) throw noSnapshot(id);
      return fromRow(row);
    },

    /** Every namespace, also of those that have no snapshot any more. */
    async namespaces(): Promise<NamespaceId[]> {
      const rows = await db
        .select({ id: namespaces.id })
        .from(namespaces)
        .where(isNull(namespaces.deletingAt));
      return rows.map(({ id }) => id);
    },

    /** Those made before a time, the oldest first, and no more than `most`. */
    async olderThan(createdAt: number, most: number): Promise<OwnedSnapshot[]> {
      const rows = await db
        .select({ snapshot: table, workspaceId: namespaces.workspaceId, namespace: namespaces.name })
        .from(table)
        .innerJoin(namespaces, eq(namespaces.id, table.namespaceId))
        .where(and(lt(table.createdAt, createdAt), eq(table.kind, "user"), isNull(namespaces.deletingAt)))
        .orderBy(table.createdAt)
        .limit(most);
      return rows.map(({ snapshot, ...owner }) => ({ ...fromRow(snapshot), ...owner }));
    },

    /** What is to be verified: all of it, or a workspace's, a namespace's, one. */
    async owned(of: {
      workspaceId?: WorkspaceId | undefined;
      namespaceId?: NamespaceId | undefined;
      namespace?: string | undefined;
      snapshot?: string | undefined;
    }): Promise<OwnedSnapshot[]> {
      const rows = await db
        .select({ snapshot: table, workspaceId: namespaces.workspaceId, namespace: namespaces.name })
        .from(table)
        .innerJoin(namespaces, eq(namespaces.id, table.namespaceId))
        .where(
          and(
            isNull(namespaces.deletingAt),
            of.workspaceId === undefined ? undefined : eq(namespaces.workspaceId, of.workspaceId),
            of.namespaceId === undefined ? undefined : eq(table.namespaceId, of.namespaceId),
            of.namespace === undefined ? undefined : eq(namespaces.name, of.namespace),
            of.snapshot === undefined ? undefined : eq(sql`${table.id}`, of.snapshot),
          ),
        )
        .orderBy(table.namespaceId, ...newestFirst);
      return rows.map(({ snapshot, ...owner }) => ({ ...fromRow(snapshot), ...owner }));
    },

    /** Of these, what is still there. */
    async stillThere(ids: readonly SnapshotId[]): Promise<Set<SnapshotId>> {
      const rows = await db
        .select({ id: table.id })
        .from(table)
        .where(inArray(table.id, [...ids]));
      return new Set(rows.map(({ id }) => id));
    },
  };
}

export function noSnapshot(id: string): AppError {
  const shown = id.length > 100 ? `${id.slice(0, 100)}…` : id;
  return new AppError("not_found", `The namespace has no snapshot ${JSON.stringify(shown)}.`);
}

function fromRow(row: typeof table.$inferSelect): Snapshot {
  return { ...row, manifest: manifestRef.parse(row.manifest) };
}
