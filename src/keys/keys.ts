import { timingSafeEqual } from "node:crypto";
import { and, asc, eq, isNull, sql } from "drizzle-orm";
import type { Database } from "../db/open.ts";
import { keys as table, namespaces } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import { keyId, type KeyId, type NamespaceId, type WorkspaceId } from "../ids.ts";
import type { KeyHolder } from "./caller.ts";
import type { Calls } from "./calls.ts";
import { createLastUse, storeLastUse } from "./lastuse.ts";
import { hashOf, isApiKey, makeApiKey } from "./secret.ts";

const CACHED = 10_000;

export interface Key {
  readonly id: KeyId;
  readonly name: string;
  readonly prefix: string;
  readonly scope: "admin" | "workspace";
  /** The name of the one namespace that it opens. */
  readonly namespace: string | null;
  readonly createdAt: number;
  readonly lastUsedAt: number | null;
}

export interface NewKey {
  readonly workspaceId: WorkspaceId;
  readonly name: string;
  readonly scope: "admin" | "workspace";
  readonly namespace: { readonly id: NamespaceId; readonly name: string } | null;
}

export type Keys = ReturnType<typeof createKeys>;

export function createKeys({ db, calls }: { readonly db: Database; readonly calls: Calls }) {
  const cache = new Map<string, KeyHolder>();
  const revoked = new Set<KeyId>();
  const lastUse = createLastUse<KeyId>((seen) => storeLastUse(db, table, seen));

  async function lookUp(hash: string): Promise<KeyHolder | null> {
    const rows = await db
      .select({ key: table, namespace: namespaces.name })
      .from(table)
      .leftJoin(namespaces, eq(namespaces.id, table.namespaceId))
      .where(and(eq(table.hash, hash), isNull(table.revokedAt)));
    const row = rows[0];
    if (row === undefined || !timingSafeEqual(Buffer.from(row.key.hash), Buffer.from(hash))) return null;
    return {
      scope: row.key.scope,
      workspaceId: row.key.workspaceId,
      keyId: row.key.id,
      keyName: row.key.name,
      lockedNamespace: row.namespace,
    };
  }

  /** After the database says so: the keys stop working here, calls in flight included. */
  function end(ids: readonly KeyId[]): void {
    for (const id of ids) revoked.add(id);
    for (const [hash, caller] of cache) if (revoked.has(caller.keyId)) cache.delete(hash);
    // No 4xx: what such a call did before its end stays.
    const reason = new AppError(
      "sandbox_lost",
      "The key of this call was revoked while it ran, so it was ended; what it had done by then stays.",
    );
    for (const id of ids) calls.endOfKey(id, reason);
  }

  return {
    /** `apiKey` is shown this once and never stored. */
    async create({
      workspaceId,
      name,
      scope,
      namespace,
    }: NewKey): Promise<Key & { readonly apiKey: string }> {
      const id = keyId.make();
      const { apiKey, prefix, hash } = makeApiKey(scope);
      const createdAt = Date.now();
      const namespaceId = namespace?.id ?? null;
      // One statement, so that no key is ever made for a namespace whose deletion has begun.
      const { rowsAffected } = await db.run(sql`
        INSERT INTO ${table} (id, workspace_id, name, scope, namespace_id, prefix, hash, created_at)
        SELECT ${id}, ${workspaceId}, ${name}, ${scope}, ${namespaceId}, ${prefix}, ${hash}, ${createdAt}
        WHERE ${namespaceId} IS NULL
           OR EXISTS (SELECT 1 FROM ${namespaces} WHERE id = ${namespaceId} AND deleting_at IS NULL)`);
      if (rowsAffected !== 1) {
        throw new AppError("conflict", `The namespace "${namespace?.name}" was just deleted; try again.`);
      }
      return {
        id,
        name,
        prefix,
        scope,
        namespace: namespace?.name ?? null,
        createdAt,
        lastUsedAt: null,
        apiKey,
      };
    },

    /** The keys that work, oldest first. */
    async list(workspaceId: WorkspaceId): Promise<Key[]> {
      const rows = await db
        .select({ key: table, namespace: namespaces.name })
        .from(table)
        .leftJoin(namespaces, eq(namespaces.id, table.namespaceId))
        .where(and(eq(table.workspaceId, workspaceId), isNull(table.revokedAt)))
        .orderBy(asc(table.createdAt), asc(table.id));
      return rows.map(({ key, namespace }) => ({
        id: key.id,
        name: key.name,
        prefix: key.prefix,
        scope: key.scope,
        namespace,
        createdAt: key.createdAt,
        lastUsedAt: lastUse.pending(key.id) ?? key.lastUsedAt,
      }));
    },

    /** At once, also for calls in flight. False when the workspace has no such key that works. */
    async revoke(workspaceId: WorkspaceId, id: KeyId): Promise<boolean> {
      const { rowsAffected } = await db
        .update(table)
        .set({ revokedAt: Date.now() })
        .where(and(eq(table.id, id), eq(table.workspaceId, workspaceId), isNull(table.revokedAt)));
      if (rowsAffected === 1) end([id]);
      return rowsAffected === 1;
    },

    end,
    isRevoked: (id: KeyId) => revoked.has(id),

    /** Who holds this key; null when it is unknown or revoked. */
    async authenticate(apiKey: string): Promise<KeyHolder | null> {
      if (!isApiKey(apiKey)) return null;
      const hash = hashOf(apiKey);
      const caller = cache.get(hash) ?? (await lookUp(hash));
      // A revocation during the look-up was not seen by it.
      if (caller === null || revoked.has(caller.keyId)) return null;
      if (cache.size >= CACHED) cache.clear();
      cache.set(hash, caller);
      lastUse.touch(caller.keyId);
      return caller;
    },

    lastUse,
  };
}
