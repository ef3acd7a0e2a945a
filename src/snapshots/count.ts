import { and, count, eq, isNull } from "drizzle-orm";
import type { Config } from "../config/schema.ts";
import type { Database } from "../db/open.ts";
import { namespaces, snapshots } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import type { NamespaceId, WorkspaceId } from "../ids.ts";

/** How many snapshots each of a workspace's namespaces has; those that have none are left out. */
export async function snapshotCounts(
  db: Database,
  workspaceId: WorkspaceId,
): Promise<Map<NamespaceId, number>> {
  const rows = await db
    .select({ id: snapshots.namespaceId, count: count() })
    .from(snapshots)
    .innerJoin(namespaces, eq(namespaces.id, snapshots.namespaceId))
    .where(
      and(eq(namespaces.workspaceId, workspaceId), isNull(namespaces.deletingAt), eq(snapshots.kind, "user")),
    )
    .groupBy(snapshots.namespaceId);
  return new Map(rows.map((row) => [row.id, row.count]));
}

/** Throws no_space when one more is too many. In the plan of the change that adds it, so that two can't both be the last. */
export async function checkSnapshots(
  db: Database,
  quota: Config["quota"],
  { namespaceId, workspaceId }: { readonly namespaceId: NamespaceId; readonly workspaceId: WorkspaceId },
): Promise<void> {
  if (quota.snapshots === 0 && quota.workspace_snapshots === 0) return;
  const counts = await snapshotCounts(db, workspaceId);
  if (quota.snapshots > 0 && (counts.get(namespaceId) ?? 0) >= quota.snapshots) {
    throw tooMany("namespace", quota.snapshots, "snapshots");
  }
  const all = counts.values().reduce((sum, one) => sum + one, 0);
  if (quota.workspace_snapshots > 0 && all >= quota.workspace_snapshots) {
    throw tooMany("workspace", quota.workspace_snapshots, "workspace_snapshots");
  }
}

function tooMany(what: string, limit: number, setting: string): AppError {
  return new AppError(
    "no_space",
    `The ${what} has the ${limit} snapshots it may have ([quota] ${setting}); delete one first.`,
  );
}
