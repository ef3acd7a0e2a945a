import type { InStatement, Row } from "@libsql/client/sqlite3";
import type { WebhookId, WorkspaceId } from "../ids.ts";

/** A delivery whose turn it is. */
export interface Taken {
  readonly eventAt: number;
  readonly eventId: string;
  readonly type: string;
  /** Null when retention has removed the event. */
  readonly body: string | null;
  /** This one counted. */
  readonly attempts: number;
}

/** What became of an attempt. */
export interface Recorded {
  readonly webhookId: WebhookId;
  readonly eventAt: number;
  /** As it was taken: one that was replayed meanwhile is another delivery. */
  readonly attempts: number;
  readonly state: "waiting" | "delivered" | "dead";
  /** When the next attempt is due; of no meaning but for the ones that wait. */
  readonly dueAt: number;
  readonly status: number | null;
  readonly error: string | null;
}

/** What a webhook is shown with, after an attempt. */
export interface LastDelivery {
  readonly webhookId: WebhookId;
  readonly ok: boolean;
  readonly at: number;
  readonly status: number | null;
  readonly error: string | null;
  readonly failingSince: number | null;
}

/**
 * Takes the deliveries that are due, longest first. To take one is to make it due again when the lease ends: that is all
 * that a crash has to be mended by.
 */
export function take(
  webhook: { readonly id: WebhookId; readonly workspaceId: WorkspaceId },
  { now, leaseMs, limit }: { readonly now: number; readonly leaseMs: number; readonly limit: number },
): InStatement {
  return {
    sql: `
      UPDATE deliveries SET due_at = :until, attempts = attempts + 1, attempted_at = :now
      WHERE webhook_id = :id AND event_at IN (
        SELECT event_at FROM deliveries WHERE webhook_id = :id AND state = 'waiting' AND due_at <= :now
        ORDER BY due_at, event_at LIMIT :limit)
        AND EXISTS (SELECT 1 FROM webhooks WHERE id = :id AND state = 'enabled')
      RETURNING event_at, event_id, type, attempts,
        (SELECT body FROM events AS e WHERE e.chain = :chain AND e.created_at = deliveries.event_at) AS body`,
    args: { id: webhook.id, chain: webhook.workspaceId, now, until: now + leaseMs, limit },
  };
}

/** In the order in which they happened. */
export function takenRows(rows: readonly Row[]): Taken[] {
  return rows
    .map((row) => ({
      eventAt: Number(row["event_at"]),
      eventId: row["event_id"] as string,
      type: row["type"] as string,
      body: row["body"] as string | null,
      attempts: Number(row["attempts"]),
    }))
    .toSorted((a, b) => a.eventAt - b.eventAt);
}

/** All of them in one statement. */
export function record(results: readonly Recorded[]): InStatement {
  return {
    sql: `
      UPDATE deliveries SET state = r.state, due_at = r.due_at, status = r.status, error = r.error
      FROM (SELECT value ->> 'webhookId' AS webhook_id, value ->> 'eventAt' AS event_at,
              value ->> 'attempts' AS attempts, value ->> 'state' AS state, value ->> 'dueAt' AS due_at, value ->> 'status' AS status,
              value ->> 'error' AS error
            FROM json_each(?)) AS r
      WHERE deliveries.webhook_id = r.webhook_id AND deliveries.event_at = r.event_at
        AND deliveries.attempts = r.attempts`,
    args: [JSON.stringify(results)],
  };
}

export function recordLast(last: readonly LastDelivery[]): InStatement {
  return {
    sql: `
      UPDATE webhooks SET last_delivery_ok = r.ok, last_delivery_at = r.at, last_delivery_status = r.status,
        last_delivery_error = r.error, failing_since = r.failing_since
      FROM (SELECT value ->> 'webhookId' AS id, value ->> 'ok' AS ok, value ->> 'at' AS at, value ->> 'status' AS status,
              value ->> 'error' AS error, value ->> 'failingSince' AS failing_since
            FROM json_each(?)) AS r
      WHERE webhooks.id = r.id`,
    args: [JSON.stringify(last)],
  };
}

/** When each has something due next: `id`, and `due_at` or null. */
export function nextDue(ids: readonly WebhookId[]): InStatement {
  return {
    sql: `
      SELECT value AS id,
        (SELECT min(due_at) FROM deliveries WHERE webhook_id = value AND state = 'waiting') AS due_at
      FROM json_each(?)`,
    args: [JSON.stringify(ids)],
  };
}
