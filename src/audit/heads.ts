import { desc, eq } from "drizzle-orm";
import type { Database } from "../db/open.ts";
import { events as eventTable, heads as headTable, workspaces } from "../db/schema.ts";
import { GENESIS, isHeadMac, type Head } from "./chain.ts";
import type { Chain } from "./event.ts";

/** A chain that is not as this appliance left it. */
interface Break {
  readonly chain: Chain;
  readonly reason: string;
}

export function nothingYet(chain: Chain): Head {
  return { chain, seq: 0, createdAt: 0, hash: GENESIS };
}

/** The heads to go on from, what is not as this appliance left it, and the chains that have to begin. */
export async function loadHeads(db: Database, key: Uint8Array) {
  const heads = new Map<Chain, Head>();
  const breaks: Break[] = [];
  const rows = await db.select().from(headTable);
  for (const { mac, ...head } of rows) {
    const newest = await newestOf(db, head.chain);
    if (!isHeadMac(key, head, mac)) {
      breaks.push({ chain: head.chain, reason: "the head's MAC is not this appliance's" });
      heads.set(head.chain, newest ?? nothingYet(head.chain));
      continue;
    }
    heads.set(head.chain, head);
    // Retention leaves the newest.
    if (newest?.hash !== head.hash) {
      breaks.push({ chain: head.chain, reason: "the newest events are not those that the head names" });
    }
  }
  const all: readonly Chain[] = ["appliance", ...(await db.select().from(workspaces)).map(({ id }) => id)];
  for (const chain of all) {
    const newest = heads.has(chain) ? null : await newestOf(db, chain);
    if (newest === null) continue;
    breaks.push({ chain, reason: "the head is missing" });
    heads.set(chain, newest);
  }
  const gone = all.filter((chain) => !heads.has(chain));
  // A new database has nothing yet, and one from before the audit log has no chain.
  if (heads.size === 0) return { heads, breaks, unbegun: gone };
  breaks.push(...gone.map((chain) => ({ chain, reason: "all of its events are gone" })));
  return { heads, breaks, unbegun: [] };
}

async function newestOf(db: Database, chain: Chain): Promise<Head | null> {
  const [row] = await db
    .select({ seq: eventTable.seq, createdAt: eventTable.createdAt, hash: eventTable.hash })
    .from(eventTable)
    .where(eq(eventTable.chain, chain))
    .orderBy(desc(eventTable.createdAt))
    .limit(1);
  return row === undefined ? null : { chain, ...row };
}
