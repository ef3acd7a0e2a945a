import { timingSafeEqual } from "node:crypto";
import { and, asc, eq, isNull, sql, type SQL } from "drizzle-orm";
import type { EventDraft, Origin } from "../audit/event.ts";
import type { Change, Ledger } from "../audit/ledger.ts";
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

export interface MadeKey extends Key {
  readonly apiKey: string;
}

/** A key of the database, with the name of its namespace. */
type Working = typeof table.$inferSelect & { readonly namespace: string | null };

export type Keys = ReturnType<typeof createKeys>;

export interface KeysParts {
  readonly db: Database;
  readonly ledger: Pick<Ledger, "change">;
  readonly calls: Calls;
  /** For what goes on without a call. */
  readonly onEnded?: (ids: readonly KeyId[]) => void;
}

export function createKeys({ db, ledger, calls, onEnded }: KeysParts) {
  const cache = new Map<string, KeyHolder>();
  const revoked = new Set<KeyId>();
  db.onBack(() => cache.clear());
  const lastUse = createLastUse<KeyId>((seen) => storeLastUse(db, table, seen));

  async function lookUp(hash: string): Promise<KeyHolder | null> {
    const key = await workingOne(eq(table.hash, hash));
    if (key === null || !timingSafeEqual(Buffer.from(key.hash), Buffer.from(hash))) return null;
    return holderOf(key);
  }

  async function workingOne(which: SQL): Promise<Working | null> {
    const [row] = await db
      .select({ key: table, namespace: namespaces.name })
      .from(table)
      .leftJoin(namespaces, eq(namespaces.id, table.namespaceId))
      .where(and(which, isNull(table.revokedAt)));
    return row === undefined ? null : { ...row.key, namespace: row.namespace };
  }

  /** After the database says so: the keys stop working here, calls in flight included. */
  function end(ids: readonly KeyId[]): void {
    for (const id of ids) revoked.add(id);
    for (const [hash, caller] of cache) if (revoked.has(caller.keyId)) cache.delete(hash);
    for (const id of ids) calls.endOfKey(id, keyEnded());
    if (ids.length > 0) onEnded?.(ids);
  }

  /** To be part of a change; so is what it comes to only if the change is made. */
  function creation(wanted: NewKey, origin: Origin): Change & { readonly key: MadeKey } {
    const { workspaceId, name, scope, namespace } = wanted;
    const id = keyId.make();
    const { apiKey, prefix, hash } = makeApiKey(scope);
    const createdAt = Date.now();
    const row = { id, workspaceId, name, scope, namespaceId: namespace?.id ?? null, prefix, hash, createdAt };
    const shown = { id, name, scope, namespace: namespace?.name ?? null };
    return {
      statements: [db.insert(table).values(row)],
      events: [keyEvent("key.created", workspaceId, shown, origin)],
      key: { ...shown, prefix, createdAt, lastUsedAt: null, apiKey },
    };
  }

  /** To be part of a change, with `end` after it. */
  function revocation(workspaceId: WorkspaceId, found: readonly Working[], origin: Origin): Change {
    const revokedAt = Date.now();
    return {
      statements: found.map(({ id }) => db.update(table).set({ revokedAt }).where(eq(table.id, id))),
      events: found.map((key) => keyEvent("key.revoked", workspaceId, key, origin)),
    };
  }

  /** Those of a workspace that work, oldest first. */
  async function working(workspaceId: WorkspaceId, which?: SQL): Promise<Working[]> {
    const rows = await db
      .select({ key: table, namespace: namespaces.name })
      .from(table)
      .leftJoin(namespaces, eq(namespaces.id, table.namespaceId))
      .where(and(eq(table.workspaceId, workspaceId), isNull(table.revokedAt), which))
      .orderBy(asc(table.createdAt), sql`${table}.rowid`);
    return rows.map(({ key, namespace }) => ({
      ...key,
      namespace,
      lastUsedAt: lastUse.pending(key.id) ?? key.lastUsedAt,
    }));
  }

  async function isLive(id: NamespaceId): Promise<boolean> {
    const rows = await db
      .select({ id: namespaces.id })
      .from(namespaces)
      .where(and(eq(namespaces.id, id), isNull(namespaces.deletingAt)));
    return rows.length === 1;
  }

  return {
    /** `apiKey` is shown this once and never stored. */
    async create(wanted: NewKey, origin: Origin): Promise<MadeKey> {
      return ledger.change(async () => {
        const { namespace } = wanted;
        // No key is ever made for a namespace whose deletion has begun.
        if (namespace !== null && !(await isLive(namespace.id))) {
          throw new AppError("conflict", `The namespace "${namespace.name}" was just deleted; try again.`);
        }
        const { key, ...part } = creation(wanted, origin);
        return { ...part, result: key };
      });
    },

    creation,

    /** The keys that work, oldest first. */
    async list(workspaceId: WorkspaceId): Promise<Key[]> {
      return (await working(workspaceId)).map(
        ({ id, name, prefix, scope, namespace, createdAt, lastUsedAt }) => ({
          id,
          name,
          prefix,
          scope,
          namespace,
          createdAt,
          lastUsedAt,
        }),
      );
    },

    /** At once, also for calls in flight. False when the workspace has no such key that works. */
    async revoke(workspaceId: WorkspaceId, id: KeyId, origin: Origin): Promise<boolean> {
      const revoked = await ledger.change(async () => {
        const found = await working(workspaceId, eq(table.id, id));
        return { ...revocation(workspaceId, found, origin), result: found.length === 1 };
      });
      if (revoked) end([id]);
      // Perhaps it was revoked by a call that never heard so: what that began ends now.
      else calls.endOfKey(id, keyEnded());
      return revoked;
    },

    revocation,
    working,
    end,
    isRevoked: (id: KeyId) => revoked.has(id),

    /** Who holds this key; null when it is unknown or revoked. While nobody can tell it throws a 503, seen before or not. */
    async authenticate(apiKey: string): Promise<KeyHolder | null> {
      if (!isApiKey(apiKey)) return null;
      db.check();
      const hash = hashOf(apiKey);
      const caller = cache.get(hash) ?? (await lookUp(hash));
      // A revocation during the look-up was not seen by it.
      if (caller === null || revoked.has(caller.keyId)) return null;
      if (cache.size >= CACHED) cache.clear();
      cache.set(hash, caller);
      lastUse.touch(caller.keyId);
      return caller;
    },

    /** Who holds the key of this id; null when it is unknown or revoked. */
    async holder(id: KeyId): Promise<KeyHolder | null> {
      const key = await workingOne(eq(table.id, id));
      return key === null || revoked.has(id) ? null : holderOf(key);
    },

    lastUse,
  };
}

function holderOf({ scope, workspaceId, id, name, namespace }: Working): KeyHolder {
  return { scope, workspaceId, keyId: id, keyName: name, lockedNamespace: namespace };
}

/** No 4xx: what such a call did before its end stays. */
function keyEnded(): AppError {
  return new AppError(
    "sandbox_lost",
    "The key of this call was revoked while it ran, so it was ended; what it had done by then stays.",
  );
}

function keyEvent(
  type: "key.created" | "key.revoked",
  workspaceId: WorkspaceId,
  { id, name, scope, namespace }: Pick<Key, "id" | "name" | "scope" | "namespace">,
  origin: Origin,
): EventDraft {
  return { chain: workspaceId, type, namespace, data: { key_id: id, name, scope, namespace }, origin };
}
