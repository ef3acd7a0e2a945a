import { setImmediate } from "node:timers/promises";
import type { InStatement } from "@libsql/client/sqlite3";
import type { Database } from "../db/open.ts";
import type { WebhookId, WorkspaceId } from "../ids.ts";
import type { Clock } from "./clock.ts";

const DAY_US = 24 * 60 * 60 * 1_000_000;
/** What arrived is shown for a day. */
const DELIVERED_DAYS = 1;
/** Rows of one transaction: while it runs, nothing else does. */
const BATCH = 1000;

interface SweepParts {
  readonly db: Database;
  readonly clock: Clock;
  /** Of events. What was given up is shown for twice as long. */
  readonly retentionDays: () => number;
}

/**
 * Removes deliveries that nobody looks at any more, webhooks that were deleted once they have none left, and secrets that
 * sign no more.
 */
export async function sweep({ db, clock, retentionDays }: SweepParts): Promise<void> {
  await db.$client.execute({
    sql: "UPDATE webhooks SET previous_secret = NULL, previous_until = NULL WHERE previous_until <= ?",
    args: [clock.now()],
  });
  const { rows } = await db.$client.execute("SELECT id, workspace_id, state FROM webhooks");
  const nowUs = clock.now() * 1000;
  for (const row of rows) {
    const id = row["id"] as WebhookId;
    if (row["state"] === "deleted") {
      await repeat(db, remove(id, "1"));
      await db.$client.execute({ sql: "DELETE FROM webhooks WHERE id = ?", args: [id] });
      continue;
    }
    const deliveredBefore = nowUs - DELIVERED_DAYS * DAY_US;
    const deadBefore = nowUs - 2 * retentionDays() * DAY_US;
    await repeat(db, remove(id, `state = 'delivered' AND event_at < ${deliveredBefore}`));
    await repeat(db, remove(id, `state = 'dead' AND event_at < ${deadBefore}`));
    await repeat(db, bury(id, row["workspace_id"] as WorkspaceId));
  }
}

function remove(id: WebhookId, which: string): InStatement {
  return {
    sql: `DELETE FROM deliveries WHERE webhook_id = :id AND event_at IN (
            SELECT event_at FROM deliveries WHERE webhook_id = :id AND ${which} LIMIT ${BATCH})`,
    args: { id },
  };
}

/** Those whose event retention has removed, while their webhook was disabled or left alone. */
function bury(id: WebhookId, chain: WorkspaceId): InStatement {
  return {
    sql: `UPDATE deliveries SET state = 'dead', error = '${EVENT_GONE}'
          WHERE webhook_id = :id AND event_at IN (
            SELECT event_at FROM deliveries
            WHERE webhook_id = :id AND state = 'waiting'
              AND event_at < coalesce((SELECT min(created_at) FROM events WHERE chain = :chain), 0)
            LIMIT ${BATCH})`,
    args: { id, chain },
  };
}

export const EVENT_GONE = "Retention removed its event before it could be delivered.";

async function repeat(db: Database, statement: InStatement): Promise<void> {
  for (;;) {
    const { rowsAffected } = await db.$client.execute(statement);
    if (rowsAffected < BATCH) return;
    await setImmediate();
  }
}
