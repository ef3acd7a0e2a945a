import { setImmediate } from "node:timers/promises";
import { microTimestamp, type EventData, type Origin } from "../audit/event.ts";
import { timeOf } from "../audit/reader.ts";
import type { Database } from "../db/open.ts";
import { AppError } from "../errors.ts";
import type { WorkspaceId } from "../ids.ts";
import type { Clock } from "./clock.ts";
import type { Dispatcher } from "./dispatcher.ts";
import { replay, wanted, type Range } from "./outbox.ts";
import type { Webhook } from "./webhook.ts";

export type DeliveryState = "waiting" | "delivered" | "dead";

export interface Delivery {
  readonly eventId: string;
  readonly type: string;
  /** Microseconds since 1970. */
  readonly eventAt: number;
  readonly state: DeliveryState;
  readonly attempts: number;
  readonly attemptedAt: number | null;
  /** Milliseconds since 1970, when it waits. */
  readonly dueAt: number | null;
  readonly status: number | null;
  readonly error: string | null;
}

/** Events that one call looks at. */
const MOST_REPLAYED = 10_000;
/** Of one transaction: while it runs, nothing else does. */
const BATCH = 500;

/** What was and will be sent to a webhook, and sending it once more. */
export function createHistory({
  db,
  clock,
  dispatcher,
  record,
}: {
  readonly db: Database;
  readonly clock: Clock;
  readonly dispatcher: Pick<Dispatcher, "poke">;
  /** Tells the audit log what is sent once more, before it is. */
  readonly record: (webhook: Webhook, origin: Origin, data: EventData) => Promise<void>;
}) {
  async function eventAt(workspaceId: WorkspaceId, eventId: string): Promise<number> {
    const at = await timeOf(db, workspaceId, eventId);
    if (at !== null) return at;
    throw new AppError(
      "not_found",
      `The workspace has no event "${eventId}"; retention may have removed it.`,
    );
  }

  return {
    /** When it happened, in microseconds: its place in the log. */
    eventAt,

    /** Newest event first; those before `before` (microseconds). */
    async deliveries(
      { id }: Pick<Webhook, "id">,
      { state, before, limit }: { state: DeliveryState | null; before: number | null; limit: number },
    ): Promise<Delivery[]> {
      const { rows } = await db.$client.execute({
        sql: `SELECT * FROM deliveries WHERE webhook_id = ? AND event_at < ?
              ${state === null ? "" : "AND state = ?"} ORDER BY event_at DESC LIMIT ?`,
        args: [id, before ?? Number.MAX_SAFE_INTEGER, ...(state === null ? [] : [state]), limit],
      });
      return rows.map((row) => ({
        eventId: row["event_id"] as string,
        type: row["type"] as string,
        eventAt: Number(row["event_at"]),
        state: row["state"] as DeliveryState,
        attempts: Number(row["attempts"]),
        attemptedAt: row["attempted_at"] as number | null,
        dueAt: row["state"] === "waiting" ? Number(row["due_at"]) : null,
        status: row["status"] as number | null,
        error: row["error"] as string | null,
      }));
    },

    /** Of one event, whether it was delivered before or not. */
    async replayOne(webhook: Webhook, eventId: string, origin: Origin): Promise<void> {
      const at = await eventAt(webhook.workspaceId, eventId);
      const { rows } = await db.$client.execute(wanted(webhook, at));
      if (rows.length === 0) {
        throw new AppError("invalid", "This webhook doesn't want events of that type or namespace.");
      }
      await record(webhook, origin, { event_id: eventId });
      const range = { after: at - 1, upTo: at, deadOnly: false };
      await db.$client.batch(replay(webhook, range, { limit: 1, now: clock.now() }), "write");
      dispatcher.poke(webhook.id);
    },

    /**
     * All of a range that the webhook wants, oldest first: how many, and the last event that was looked at when the
     * range holds more than one call does.
     */
    async replayRange(
      webhook: Webhook,
      { after, upTo, deadOnly }: Range,
      origin: Origin,
    ): Promise<{ queued: number; cursor: string | null }> {
      await record(webhook, origin, {
        after: microTimestamp(after),
        until: upTo === Number.MAX_SAFE_INTEGER ? null : microTimestamp(upTo),
        dead_only: deadOnly,
      });
      let queued = 0;
      let from = after;
      let cursor: string | null = null;
      for (let looked = 0; looked < MOST_REPLAYED; looked += BATCH) {
        const range = { after: from, upTo, deadOnly };
        const statements = replay(webhook, range, { limit: BATCH, now: clock.now() });
        const [made, reached] = await db.$client.batch(statements, "write");
        queued += made?.rowsAffected ?? 0;
        dispatcher.poke(webhook.id);
        const row = reached?.rows[0];
        cursor = row === undefined || Number(row["events"]) < BATCH ? null : (row["event_id"] as string);
        if (cursor === null) break;
        from = Number(row?.["event_at"]);
        // Other calls' turn.
        await setImmediate();
      }
      return { queued, cursor };
    },
  };
}
