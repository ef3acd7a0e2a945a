import { and, asc, eq, isNotNull, isNull, sql } from "drizzle-orm";
import type { Origin } from "../audit/event.ts";
import { unchanged, type Ledger, type Planned } from "../audit/ledger.ts";
import type { Database } from "../db/open.ts";
import { keys as keyTable, namespaces as table } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import { namespaceId, type KeyId, type NamespaceId, type WorkspaceId } from "../ids.ts";
import type { Calls } from "./calls.ts";
import type { Keys } from "./keys.ts";
import type { Secrets } from "../secrets.ts";
import { createLastUse, storeLastUse } from "./lastuse.ts";
import { wrapNewKey } from "./namespace-keys.ts";

const CACHED = 10_000;
/** How long a deletion waits for the calls that it aborted. */
const PATIENCE_MS = 10_000;

export interface Namespace {
  readonly id: NamespaceId;
  readonly name: string;
  readonly createdAt: number;
  readonly lastUsedAt: number;
}

export interface NamespacesParts {
  readonly db: Database;
  readonly ledger: Pick<Ledger, "change">;
  readonly calls: Calls;
  readonly keys: Pick<Keys, "end">;
  readonly secrets: Pick<Secrets, "seal">;
  /** Namespaces that one workspace may have; 0 = no limit. */
  readonly limit: () => number;
  /** Ends what runs there. Idempotent. */
  readonly stopSandbox: (id: NamespaceId) => Promise<void>;
  /** Idempotent. */
  readonly removeFiles: (id: NamespaceId) => Promise<void>;
}

export type Namespaces = ReturnType<typeof createNamespaces>;

export function createNamespaces(parts: NamespacesParts) {
  const { db, ledger, calls, keys, secrets } = parts;
  const cache = new Map<string, NamespaceId>();
  const ending = new Set<NamespaceId>();
  db.onBack(() => cache.clear());
  const lastUse = createLastUse<NamespaceId>((seen) => storeLastUse(db, table, seen));

  const live = (workspaceId: WorkspaceId) =>
    and(eq(table.workspaceId, workspaceId), isNull(table.deletingAt));

  /** No name holds the space that parts the two. */
  const cacheKey = (workspaceId: WorkspaceId, name: string) => `${workspaceId} ${name}`;

  function used(workspaceId: WorkspaceId, name: string, id: NamespaceId): NamespaceId {
    if (cache.size >= CACHED) cache.clear();
    if (!ending.has(id)) cache.set(cacheKey(workspaceId, name), id);
    lastUse.touch(id);
    return id;
  }

  async function find(workspaceId: WorkspaceId, name: string): Promise<NamespaceId | null> {
    const cached = cache.get(cacheKey(workspaceId, name));
    if (cached !== undefined) return used(workspaceId, name, cached);
    const row = await lookUp(workspaceId, name);
    return row === null ? null : used(workspaceId, name, row.id);
  }

  async function lookUp(workspaceId: WorkspaceId, name: string) {
    const [row] = await db
      .select({ id: table.id, createdAt: table.createdAt })
      .from(table)
      .where(and(live(workspaceId), eq(table.name, name)));
    return row ?? null;
  }

  /** Makes it when it is not there yet. */
  async function ensure(workspaceId: WorkspaceId, name: string): Promise<NamespaceId> {
    const found = await find(workspaceId, name);
    if (found !== null) return found;
    const now = Date.now();
    const limit = parts.limit();
    const id = namespaceId.make();
    // One statement, so that neither a second call of this name nor the limit can be missed.
    await db.run(sql`
      INSERT INTO ${table} (id, workspace_id, name, created_at, last_used_at, wrapped_key)
      SELECT ${id}, ${workspaceId}, ${name}, ${now}, ${now}, ${wrapNewKey(secrets, id)}
      WHERE ${limit} = 0 OR ${limit} >
        (SELECT count(*) FROM ${table} WHERE workspace_id = ${workspaceId} AND deleting_at IS NULL)
      ON CONFLICT DO NOTHING`);
    const made = await find(workspaceId, name);
    if (made === null) {
      throw new AppError(
        "no_space",
        `The workspace has the ${limit} namespaces that [quota] namespaces allows; delete one first.`,
      );
    }
    return made;
  }

  /** What begins a deletion: the name is free, and the keys that are locked to it end. */
  async function deletion(
    workspaceId: WorkspaceId,
    { id, name }: Pick<Namespace, "id" | "name">,
    origin: Origin,
  ): Promise<Planned<{ readonly lockedIds: KeyId[] }>> {
    const works = and(eq(keyTable.namespaceId, id), isNull(keyTable.revokedAt));
    const locked = await db.select({ id: keyTable.id }).from(keyTable).where(works);
    const lockedIds = locked.map((key) => key.id);
    const now = Date.now();
    const data = { namespace: name, revoked_key_ids: lockedIds };
    return {
      statements: [
        db.update(table).set({ deletingAt: now, wrappedKey: null }).where(eq(table.id, id)),
        db.update(keyTable).set({ revokedAt: now }).where(works),
      ],
      events: [{ chain: workspaceId, type: "namespace.deleted", namespace: name, data, origin }],
      result: { lockedIds },
    };
  }

  /** What a deletion still has to do once the row says that it began; also after a crash in its middle. */
  async function finish(id: NamespaceId, name: string): Promise<void> {
    const reason = new AppError("conflict", `The namespace "${name}" was deleted while this call ran.`);
    await calls.endOfNamespace(id, reason, PATIENCE_MS);
    await parts.stopSandbox(id);
    await parts.removeFiles(id);
    // Takes its locked keys, revoked before, along.
    await db.delete(table).where(eq(table.id, id));
  }

  return {
    find,
    ensure,
    /** Milliseconds since 1970; null when there is none of that name. */
    async madeAt(workspaceId: WorkspaceId, name: string): Promise<number | null> {
      return (await lookUp(workspaceId, name))?.createdAt ?? null;
    },
    isEnding: (id: NamespaceId) => ending.has(id),

    async list(workspaceId: WorkspaceId): Promise<Namespace[]> {
      const rows = await db.select().from(table).where(live(workspaceId)).orderBy(asc(table.name));
      return rows.map(({ id, name, createdAt, lastUsedAt }) => ({
        id,
        name,
        createdAt,
        lastUsedAt: lastUse.pending(id) ?? lastUsedAt,
      }));
    },

    /** Its files and its locked keys go with it; the name is free at once. False when there is none of that name. */
    async remove(workspaceId: WorkspaceId, name: string, origin: Origin): Promise<boolean> {
      let marked: NamespaceId | null = null;
      try {
        const begun = await ledger.change(async () => {
          const row = await lookUp(workspaceId, name);
          if (row === null) return unchanged(null);
          const { id } = row;
          // From before the database says so, or a look-up under way would remember the name for good.
          ending.add(id);
          marked = id;
          cache.delete(cacheKey(workspaceId, name));
          return deletion(workspaceId, { id, name }, origin);
        });
        if (begun === null) return false;
        keys.end(begun.lockedIds);
      } catch (error) {
        if (marked !== null) ending.delete(marked);
        throw error;
      }
      if (marked !== null) await finish(marked, name);
      return true;
    },

    /** Ends the deletions that a crash or a failure left halfway: all that can be, then it throws what could not. */
    async resume(): Promise<void> {
      const rows = await db.select().from(table).where(isNotNull(table.deletingAt));
      const failures: unknown[] = [];
      for (const { id, name } of rows) {
        ending.add(id);
        await finish(id, name).catch((error: unknown) => failures.push(error));
      }
      if (failures.length > 0) throw new AggregateError(failures, "deletions are not ended");
    },

    lastUse,
  };
}
