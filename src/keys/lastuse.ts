import { sql } from "drizzle-orm";
import type { Database } from "../db/open.ts";
import type { keys, namespaces } from "../db/schema.ts";

const FLUSH_MS = 60_000;

/** Remembers when things were last used and stores it once a minute, so that a call costs no write. */
export function createLastUse<Id extends string>(store: (seen: ReadonlyMap<Id, number>) => Promise<void>) {
  let seen = new Map<Id, number>();

  async function flush(): Promise<void> {
    if (seen.size === 0) return;
    const batch = seen;
    seen = new Map();
    await store(batch);
  }

  return {
    touch: (id: Id) => void seen.set(id, Date.now()),
    /** Not stored yet, or undefined. */
    pending: (id: Id) => seen.get(id),
    flush,
    /** Until `stop` is called; `failed` gets what a write threw. */
    start(failed: (error: unknown) => void): { stop(): void } {
      const timer = setInterval(() => void flush().catch(failed), FLUSH_MS);
      return { stop: () => clearInterval(timer) };
    },
  };
}

/** One statement, since a transaction with awaits in it would keep all other writers waiting. */
export async function storeLastUse(
  db: Database,
  table: typeof keys | typeof namespaces,
  seen: ReadonlyMap<string, number>,
): Promise<void> {
  const json = JSON.stringify(Object.fromEntries(seen));
  await db.run(
    sql`UPDATE ${table} SET last_used_at = seen.value FROM json_each(${json}) AS seen WHERE ${table.id} = seen.key`,
  );
}
