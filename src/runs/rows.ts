import { and, asc, desc, eq, getTableColumns, inArray, isNotNull, lt, or, sql, type SQL } from "drizzle-orm";
import type { Database } from "../db/open.ts";
import { namespaces, runs as table } from "../db/schema.ts";
import type { NamespaceId, RunId, WorkspaceId } from "../ids.ts";
import type { Run, RunRow, RunStatus } from "./run.ts";

export type RunRows = ReturnType<typeof createRunRows>;

/** What a caller may have of the runs, as far as it goes by the database. */
export interface RunScope {
  readonly workspaceId: WorkspaceId;
  /** One that does not exist has none; undefined: those of all. */
  readonly namespaceId?: NamespaceId | null;
}

/** Where a page ends: the next one has what is older. */
export interface RunPlace {
  readonly createdAt: number;
  readonly id: RunId;
}

/** The table of runs. Statuses change by the ledger, with their events; the rest of a row is its run's alone. */
export function createRunRows(db: Database) {
  const columns = getTableColumns(table);
  const from = <T extends typeof columns>(run: T) =>
    db
      .select({ run, namespace: namespaces.name })
      .from(table)
      .innerJoin(namespaces, eq(namespaces.id, table.namespaceId));
  const select = () => from(columns);
  /** Of many: what each was given may be megabytes. */
  const selectMany = () => from({ ...columns, given: sql<null>`NULL` as never });

  async function all(rows: PromiseLike<{ run: RunRow; namespace: string }[]>): Promise<Run[]> {
    return (await rows).map(({ run, namespace }) => ({ ...run, namespace }));
  }

  function within({ workspaceId, namespaceId }: RunScope): SQL | undefined {
    const own = eq(table.workspaceId, workspaceId);
    if (namespaceId === undefined) return own;
    // An id that no row has: who asks about nothing waits as long as who asks about something.
    return and(own, eq(table.namespaceId, namespaceId ?? ("" as NamespaceId)));
  }

  return {
    /** null when there is none of that id in the scope. */
    async find(id: RunId, scope?: RunScope): Promise<Run | null> {
      const where = and(eq(table.id, id), scope === undefined ? undefined : within(scope));
      const [found = null] = await all(select().where(where));
      return found;
    },

    /** Newest first, without what they were given. */
    async page(
      scope: RunScope,
      { statuses, before, limit }: { statuses: readonly RunStatus[]; before: RunPlace | null; limit: number },
    ): Promise<Run[]> {
      const older =
        before === null
          ? undefined
          : or(
              lt(table.createdAt, before.createdAt),
              and(eq(table.createdAt, before.createdAt), lt(table.id, before.id)),
            );
      const wanted = statuses.length === 0 ? undefined : inArray(table.status, [...statuses]);
      const where = and(within(scope), wanted, older);
      return all(selectMany().where(where).orderBy(desc(table.createdAt), desc(table.id)).limit(limit));
    },

    /** Those that something is left to be done for, oldest first, without what they were given. */
    async unsettled(namespaceId?: NamespaceId): Promise<Run[]> {
      const where = and(
        sql`${table.settled} = 0`,
        namespaceId === undefined ? undefined : eq(table.namespaceId, namespaceId),
      );
      return all(selectMany().where(where).orderBy(asc(table.createdAt), asc(table.id)));
    },

    /** Those that have a worktree, made from what is known; with `finishedBefore` those that ended before that time. */
    async withWorktree({ finishedBefore }: { readonly finishedBefore?: number } = {}): Promise<Run[]> {
      const old = finishedBefore === undefined ? undefined : lt(table.finishedAt, finishedBefore);
      const has = inArray(table.worktree, ["making", "ready", "merging"]);
      return all(selectMany().where(and(has, isNotNull(table.base), old)));
    },

    /** Of each workspace the newest are kept, and those of which something is left. How many went. */
    async prune(keep: number, finishedBefore: number): Promise<number> {
      const { rowsAffected } = await db.run(sql`
        DELETE FROM ${table} WHERE id IN (
          SELECT id FROM (
            SELECT id, settled, worktree, finished_at,
              row_number() OVER (PARTITION BY workspace_id ORDER BY created_at DESC, id DESC) AS place
            FROM ${table}
          )
          WHERE place > ${keep} AND settled = 1 AND finished_at < ${finishedBefore}
            AND worktree IN ('none', 'merged', 'discarded')
        )`);
      return rowsAffected;
    },

    async idsOf(namespaceId: NamespaceId): Promise<RunId[]> {
      const rows = await db.select({ id: table.id }).from(table).where(eq(table.namespaceId, namespaceId));
      return rows.map(({ id }) => id);
    },

    /** For what the audit log says nothing of. */
    async update(id: RunId, values: Partial<RunRow>): Promise<void> {
      await db.update(table).set(values).where(eq(table.id, id));
    },

    /** For a change of the ledger's. */
    updating: (id: RunId, values: Partial<RunRow>) => db.update(table).set(values).where(eq(table.id, id)),
    inserting: (row: typeof table.$inferInsert) => db.insert(table).values(row),
  };
}
