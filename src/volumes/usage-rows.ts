import { and, eq, isNull, sql } from "drizzle-orm";
import type { Database } from "../db/open.ts";
import { namespaces as table } from "../db/schema.ts";
import type { NamespaceId, WorkspaceId } from "../ids.ts";
import type { Usage } from "./usage.ts";

export interface UsageRow {
  readonly id: NamespaceId;
  readonly usage: Usage;
  /** Whether that is what there is; else the last that was known. */
  readonly counted: boolean;
}

export interface UsageRows {
  /** null when there is no such namespace. */
  workspaceOf(id: NamespaceId): Promise<WorkspaceId | null>;
  of(workspace: WorkspaceId): Promise<UsageRow[]>;
  /** All of them of one workspace, counted. */
  store(workspace: WorkspaceId, rows: readonly Omit<UsageRow, "counted">[]): Promise<void>;
}

/** After which a stored usage no longer holds. */
const CHANGES = ["file.written", "file.deleted", "exec.completed", "snapshot.restored"];

/**
 * What namespaces came to, kept with their rows. Nothing is written when files change: the audit log knows of every
 * change already, and so which of these are older than one.
 */
export function createUsageRows(
  db: Database,
  /** The time of the newest event of a workspace. */
  newestOf: (workspace: WorkspaceId) => number,
) {
  const live = isNull(table.deletingAt);
  return {
    /** At a start, when what a crash left is settled: what changed since it was stored has to be counted. */
    async expire(): Promise<void> {
      const changes = sql.join(
        CHANGES.map((type) => sql`${type}`),
        sql`, `,
      );
      await db.run(sql`
        UPDATE namespaces SET usage_at = NULL
        WHERE usage_at IS NOT NULL AND EXISTS (
          SELECT 1 FROM events
          WHERE chain = namespaces.workspace_id AND namespace = namespaces.name
            AND created_at > namespaces.usage_at AND type IN (${changes}))`);
    },

    async workspaceOf(id) {
      const [row] = await db
        .select({ workspace: table.workspaceId })
        .from(table)
        .where(and(eq(table.id, id), live));
      return row?.workspace ?? null;
    },

    async of(workspace) {
      const rows = await db
        .select({
          id: table.id,
          bytes: table.usageBytes,
          files: table.usageFiles,
          directories: table.usageDirectories,
          at: table.usageAt,
        })
        .from(table)
        .where(and(eq(table.workspaceId, workspace), live));
      return rows.map(({ id, at, ...usage }) => ({ id, usage, counted: at !== null }));
    },

    async store(workspace, rows) {
      const json = JSON.stringify(rows.map(({ id, usage }) => ({ id, ...usage })));
      await db.run(sql`
        UPDATE namespaces SET
          usage_bytes = seen.value ->> 'bytes', usage_files = seen.value ->> 'files',
          usage_directories = seen.value ->> 'directories', usage_at = ${newestOf(workspace)}
        FROM json_each(${json}) AS seen WHERE namespaces.id = seen.value ->> 'id'`);
    },
  } satisfies UsageRows & { expire(): Promise<void> };
}
