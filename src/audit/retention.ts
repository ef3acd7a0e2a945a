import { setImmediate } from "node:timers/promises";
import { and, asc, desc, eq, lte, sql } from "drizzle-orm";
import type { Database } from "../db/open.ts";
import { checkpoints, events, heads } from "../db/schema.ts";
import { checkpointText, GENESIS } from "./chain.ts";
import { APPLIANCE, type Chain } from "./event.ts";
import type { Ledger } from "./ledger.ts";
import type { Signer } from "./signer.ts";
import { faultOf } from "./verify.ts";

export interface RetentionParts {
  readonly db: Database;
  readonly ledger: Pick<Ledger, "append">;
  readonly signer: Pick<Signer, "sign">;
  readonly limits: () => { readonly retention_days: number; readonly max_events: number };
  /** Milliseconds since 1970. */
  readonly now?: () => number;
}

const DAY_US = 24 * 60 * 60 * 1_000_000;
/** Rows of one transaction: while it runs, nothing else does. */
const BATCH = 500;

/**
 * Removes the oldest events of each chain, by age and by count, and leaves a signed checkpoint in their place, from
 * which the rest can still be proved. The newest event of a chain always stays. What goes is verified before, or the
 * signature would hide what somebody changed.
 */
export function createRetention({ db, ledger, signer, limits, now = Date.now }: RetentionParts) {
  /** The last event that has to go, or null. */
  async function boundary(chain: Chain): Promise<number | null> {
    const { retention_days: days, max_events: most } = limits();
    const oldest = now() * 1000 - days * DAY_US;
    const [newest] = await newestFrom(chain, 0);
    if (newest === undefined) return null;
    const [overCount] = most === 0 ? [] : await newestFrom(chain, most);
    return Math.min(Math.max(oldest, overCount?.createdAt ?? 0), newest.createdAt - 1);
  }

  const newestFrom = (chain: Chain, offset: number) =>
    db
      .select({ createdAt: events.createdAt })
      .from(events)
      .where(eq(events.chain, chain))
      .orderBy(desc(events.createdAt))
      .limit(1)
      .offset(offset);

  /** At most one batch; how many went. */
  async function cut(chain: Chain, upTo: number): Promise<number> {
    const old = await db
      .select()
      .from(events)
      .where(and(eq(events.chain, chain), lte(events.createdAt, upTo)))
      .orderBy(asc(events.createdAt))
      .limit(BATCH);
    const last = old.at(-1);
    if (last === undefined) return 0;
    const fault = await firstFault(chain, old);
    if (fault !== null) {
      const data = { reason: `of the events that retention removed, ${fault}` };
      await ledger.append([{ chain, type: "audit.broken", namespace: null, data, origin: APPLIANCE }]);
    }
    const { seq, createdAt, hash } = last;
    const checkpoint = { chain, seq, createdAt, hash, cutAt: now() * 1000 };
    const signature = signer.sign(checkpointText(checkpoint));
    await db.batch([
      db.delete(events).where(and(eq(events.chain, chain), lte(events.createdAt, last.createdAt))),
      db
        .insert(checkpoints)
        .values({ ...checkpoint, signature })
        .onConflictDoUpdate({
          target: checkpoints.chain,
          // A database server may make this late, when a later cut was made.
          setWhere: sql`excluded.seq > ${checkpoints.seq}`,
          set: {
            seq: sql`excluded.seq`,
            createdAt: sql`excluded.created_at`,
            hash: sql`excluded.hash`,
            cutAt: sql`excluded.cut_at`,
            signature: sql`excluded.signature`,
          },
        }),
    ]);
    return old.length;
  }

  async function firstFault(
    chain: Chain,
    rows: readonly (typeof events.$inferSelect)[],
  ): Promise<string | null> {
    const [checkpoint] = await db.select().from(checkpoints).where(eq(checkpoints.chain, chain));
    let before: Parameters<typeof faultOf>[1] = checkpoint ?? { seq: 0, createdAt: 0, hash: GENESIS };
    for (const row of rows) {
      const fault = faultOf(row, before);
      if (fault !== null) return `${row.id}: ${fault}`;
      before = row;
    }
    return null;
  }

  return {
    /** How many events went. */
    async apply(): Promise<number> {
      let removed = 0;
      for (const { chain } of await db.select({ chain: heads.chain }).from(heads)) {
        const upTo = await boundary(chain);
        if (upTo === null) continue;
        for (let count = BATCH; count === BATCH; removed += count) {
          count = await cut(chain, upTo);
          await setImmediate();
        }
      }
      return removed;
    },
  };
}
