import { Elysia } from "elysia";
import type { Config } from "../config/schema.ts";
import type { Database } from "../db/open.ts";
import type { Namespaces } from "../keys/namespaces.ts";
import { snapshotCounts } from "../snapshots/count.ts";
import type { Usage } from "../volumes/usage.ts";
import type { UsageTable } from "../volumes/usage-table.ts";
import type { Access } from "./auth.ts";

interface UsageRoutesParts {
  readonly access: Access;
  readonly db: Database;
  readonly namespaces: Pick<Namespaces, "list">;
  readonly usage: UsageTable["survey"];
  readonly quotas: () => Config["quota"];
}

const MIB = 1024 * 1024;

/** What a workspace and its namespaces have of what they may have. */
export function usageRoutes({ access, db, namespaces, usage, quotas }: UsageRoutesParts) {
  return new Elysia().get("/v1/workspaces/:ws/usage", async ({ request, params }) => {
    const workspaceId = await access.admin(request, params.ws);
    const all = await namespaces.list(workspaceId);
    const [holdings, snapshots] = await Promise.all([usage(workspaceId), snapshotCounts(db, workspaceId)]);
    const rows = all.map(({ id, name }) => ({
      namespace: name,
      ...shown(holdings.of(id), snapshots.get(id) ?? 0),
    }));
    const quota = quotas();
    return {
      workspace_id: workspaceId,
      namespace_count: rows.length,
      ...shown(
        holdings.total,
        rows.reduce((sum, row) => sum + row.snapshot_count, 0),
      ),
      limits: {
        namespace_count: orNull(quota.namespaces),
        size_bytes: orNull(quota.workspace_mb * MIB),
        entry_count: orNull(quota.workspace_files),
        snapshot_count: orNull(quota.workspace_snapshots),
      },
      namespace_limits: {
        size_bytes: orNull(quota.namespace_mb * MIB),
        entry_count: orNull(quota.namespace_files),
        snapshot_count: orNull(quota.snapshots),
      },
      namespaces: rows,
    };
  });
}

function shown({ bytes, files, directories }: Usage, snapshots: number) {
  return {
    size_bytes: bytes,
    file_count: files,
    directory_count: directories,
    /** What `entry_count` limits. */
    entry_count: files + directories,
    snapshot_count: snapshots,
  };
}

/** No limit is null to a caller. */
function orNull(limit: number): number | null {
  return limit === 0 ? null : limit;
}
