import { setImmediate } from "node:timers/promises";
import type { ResultSet } from "@libsql/client/sqlite3";
import type { Database } from "../db/open.ts";
import type { EventId } from "../ids.ts";
import { bodyWithoutSeq, type Chain } from "./event.ts";

/** Whose events of a chain, and which. */
export interface EventFilter {
  readonly chain: Chain;
  /** null for all, also those that belong to none. */
  readonly namespace: string | null;
  /** null for all; never empty. */
  readonly types: readonly string[] | null;
  /**
   * For a key that is locked to the namespace, the time when that was made: what is older is another's, of the same
   * name. Its events come without their numbers, which would tell how much happens elsewhere. null for others.
   */
  readonly lockedSince: number | null;
}

/** Neither end belongs to it. Both are microseconds, as `created_at` is. */
export interface Span {
  readonly after: number;
  readonly before: number;
}

export interface EventRow {
  readonly createdAt: number;
  readonly id: EventId;
  readonly body: string;
}

export interface Slice {
  readonly rows: readonly EventRow[];
  readonly more: boolean;
}

export interface EventReaderParts {
  readonly db: Pick<Database, "$client">;
  readonly ledger: { durable(): Promise<void> };
}

/** Read at once, while nothing else is done: a body can have some 30 KiB, usually it has half a KiB. */
const SLICE = 200;

/** The longest time span. */
export const ALL: Span = { after: Number.MIN_SAFE_INTEGER, before: Number.MAX_SAFE_INTEGER };

export type EventReader = ReturnType<typeof createEventReader>;

/** The audit log as it may be shown: nothing of it can be taken back by a power cut. */
export function createEventReader({ db, ledger }: EventReaderParts) {
  function rowsOf({ rows }: ResultSet, { lockedSince }: EventFilter): EventRow[] {
    return rows.map((row) => {
      const body = row[2] as string;
      return {
        createdAt: Number(row[0]),
        id: row[1] as EventId,
        body: lockedSince === null ? body : bodyWithoutSeq(body),
      };
    });
  }

  return {
    /**
     * The newest `limit` events of the span, newest first, in slices: others get their turn between two. `more` tells
     * whether the span has others.
     */
    async *newest(filter: EventFilter, { after, before }: Span, limit: number): AsyncGenerator<Slice, void> {
      let end = before;
      for (let left = limit; ;) {
        const wanted = Math.min(left, SLICE);
        const found = await db.$client.execute(selection(filter, { after, before: end }, "DESC", wanted + 1));
        // After the look and not before it, when a commit could still slip in between. What is older was committed before.
        if (end === before) await ledger.durable();
        const rows = rowsOf(found, filter);
        const more = rows.length > wanted;
        if (more) rows.pop();
        yield { rows, more };
        left -= rows.length;
        if (left === 0 || !more) return;
        end = rows.at(-1)?.createdAt ?? end;
        await setImmediate();
      }
    },

    /**
     * The first `limit` after a time, oldest first, and the time of the newest that retention has removed, null when
     * the chain is whole. Both as they are at one moment: what is after both is all there.
     */
    async next(filter: EventFilter, after: number, limit: number) {
      const cut = { sql: "SELECT created_at FROM checkpoints WHERE chain = ?", args: [filter.chain] };
      const span = { after, before: ALL.before };
      const [found, cuts] = await db.$client.batch([selection(filter, span, "ASC", limit), cut], "read");
      await ledger.durable();
      const cutAt = cuts?.rows[0]?.[0];
      return {
        rows: found === undefined ? [] : rowsOf(found, filter),
        cutAt: cutAt === undefined ? null : Number(cutAt),
      };
    },

    timeOf: (chain: Chain, id: string) => timeOf(db, chain, id),
  };
}

/** When the event was; null if the chain has none of that id, or not any more. */
export async function timeOf(db: EventReaderParts["db"], chain: Chain, id: string): Promise<number | null> {
  const sql = "SELECT created_at FROM events WHERE id = ? AND chain = ?";
  const { rows } = await db.$client.execute({ sql, args: [id, chain] });
  return rows[0] === undefined ? null : Number(rows[0][0]);
}

const COLUMNS = "created_at, id, body";

/** Each form is answered from one of the table's indexes, whatever is common or rare in it. */
function selection(
  { chain, namespace, types, lockedSince }: EventFilter,
  span: Span,
  order: "ASC" | "DESC",
  limit: number,
) {
  const { before } = span;
  const after = Math.max(span.after, lockedSince ?? span.after);
  const ending = `created_at > ? AND created_at < ? ORDER BY created_at ${order} LIMIT ?`;
  if (namespace !== null) {
    // The index holds the type, so that other rows are not even looked at.
    const typed = types === null ? "" : `type IN (${types.map(() => "?").join()}) AND `;
    return {
      sql: `SELECT ${COLUMNS} FROM events INDEXED BY events_namespace WHERE chain = ? AND namespace = ? AND ${typed}${ending}`,
      args: [chain, namespace, ...(types ?? []), after, before, limit],
    };
  }
  if (types === null) {
    return {
      sql: `SELECT ${COLUMNS} FROM events WHERE chain = ? AND ${ending}`,
      args: [chain, after, before, limit],
    };
  }
  // The first of each type, merged: an index over (type, created_at) has several types in no common order.
  const firsts = types.map(
    () => `SELECT * FROM (SELECT created_at FROM events WHERE chain = ? AND type = ? AND ${ending})`,
  );
  const outer = ending.slice(ending.indexOf("ORDER"));
  return {
    sql: `SELECT ${COLUMNS} FROM events WHERE chain = ? AND created_at IN
      (SELECT created_at FROM (${firsts.join(" UNION ALL ")}) ${outer}) ${outer}`,
    args: [chain, ...types.flatMap((type) => [chain, type, after, before, limit]), limit, limit],
  };
}
