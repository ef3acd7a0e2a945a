import { randomBytes } from "node:crypto";
import { hkdf } from "@noble/hashes/hkdf.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { and, eq, isNull } from "drizzle-orm";
import type { Database } from "../db/open.ts";
import { namespaces as table } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import type { Secrets } from "../secrets.ts";

const KEY_BYTES = 32;
const PURPOSE = "namespace key";
const CACHED = 10_000;

/** The one secret of a namespace. Its files, names and blobs are under keys derived from it, and die with it. */
export interface NamespaceKey {
  /** A key of its own for each purpose (HKDF-SHA256). */
  derive(purpose: string, bytes?: number): Uint8Array;
}

export type NamespaceKeys = ReturnType<typeof createNamespaceKeys>;

/** A key for a new namespace, as it is kept in its row. */
export function wrapNewKey(secrets: Pick<Secrets, "seal">, id: NamespaceId): Buffer {
  return Buffer.from(secrets.seal(PURPOSE, randomBytes(KEY_BYTES), id));
}

/** The key in a row of a copy of the database. */
export function unwrapKey(
  secrets: Pick<Secrets, "open">,
  wrapped: Uint8Array,
  id: NamespaceId,
): NamespaceKey {
  return keyFrom(secrets.open(PURPOSE, wrapped, id));
}

export interface NamespaceKeysParts {
  readonly db: Database;
  readonly secrets: Pick<Secrets, "seal" | "open">;
}

export function createNamespaceKeys({ db, secrets }: NamespaceKeysParts) {
  const cache = new Map<NamespaceId, NamespaceKey>();

  async function load(id: NamespaceId): Promise<NamespaceKey> {
    const wrapped = (await wrappedKey(id)) ?? (await add(id));
    return unwrapKey(secrets, wrapped, id);
  }

  async function wrappedKey(id: NamespaceId): Promise<Buffer | null> {
    const [row] = await db
      .select({ wrapped: table.wrappedKey, deletingAt: table.deletingAt })
      .from(table)
      .where(eq(table.id, id));
    if (row === undefined || row.deletingAt !== null) {
      throw new AppError("not_found", "The namespace was deleted, and its key with it.");
    }
    return row.wrapped;
  }

  /** A namespace from before there were keys gets one when it is first asked for. */
  async function add(id: NamespaceId): Promise<Buffer> {
    await db
      .update(table)
      .set({ wrappedKey: wrapNewKey(secrets, id) })
      .where(and(eq(table.id, id), isNull(table.wrappedKey), isNull(table.deletingAt)));
    const wrapped = await wrappedKey(id);
    if (wrapped === null) throw new Error(`${id} has no key`);
    return wrapped;
  }

  return {
    /** Throws AppError not_found for a namespace whose deletion has begun: its key is destroyed. */
    async of(id: NamespaceId): Promise<NamespaceKey> {
      const known = cache.get(id);
      if (known !== undefined) return known;
      const key = await load(id);
      if (cache.size >= CACHED) cache.clear();
      cache.set(id, key);
      return key;
    },

    /** To be called when its row has lost it. */
    forget(id: NamespaceId): void {
      cache.delete(id);
    },
  };
}

function keyFrom(secret: Uint8Array): NamespaceKey {
  return {
    derive: (purpose, bytes = KEY_BYTES) =>
      hkdf(sha256, secret, undefined, new TextEncoder().encode(`cofferdam namespace ${purpose}`), bytes),
  };
}
