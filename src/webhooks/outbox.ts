import type { InStatement } from "@libsql/client/sqlite3";
import type { WebhookId, WorkspaceId } from "../ids.ts";

/*
 * The audit log is the outbox: events become deliveries here, in the transaction that also moves the chain's cursor, so
 * that a crash neither loses nor doubles one. All of it is SQL, since a webhook may be made or changed at any moment.
 */

/** Whether webhook w wants event e. A test is its own webhook's, and what is told of a webhook is not told to itself. */
const WANTED = `
  (w.namespace IS NULL OR w.namespace = e.namespace)
  AND (w.events = '["*"]' OR EXISTS (
    SELECT 1 FROM json_each(w.events) AS p
    WHERE p.value = '*' OR p.value = e.type
      OR (p.value LIKE '%.*' AND substr(e.type, 1, length(p.value) - 1) = substr(p.value, 1, length(p.value) - 1))))
  AND (e.type NOT GLOB 'webhook.*'
    OR (e.type <> 'webhook.test' AND json_extract(e.body, '$.data.webhook_id') <> w.id))`;

const CURSOR = `max(
  coalesce((SELECT event_at FROM fanouts WHERE chain = :chain), 0),
  coalesce((SELECT min(starts_after) FROM webhooks WHERE workspace_id = :chain AND state = 'enabled'), 0))`;

/** `created_at` is the log's key; ordered and limited, it bounds the transaction. */
const NEXT = `
  SELECT created_at, id, type, namespace, body FROM events
  WHERE chain = :chain AND created_at > ${CURSOR} AND created_at <= :upTo
  ORDER BY created_at LIMIT :limit`;

/**
 * The next events of a chain, at most `limit`, as deliveries that are due now, in the order of their events; after the
 * clock was set back those are of times yet to come. The second statement returns how far that came, and no
 * row when nothing was left. Both see the same cursor, being of one transaction.
 */
export function fanOut(
  chain: WorkspaceId,
  { upTo, limit, now }: { readonly upTo: number; readonly limit: number; readonly now: number },
): [InStatement, InStatement] {
  const args = { chain, upTo, limit };
  return [
    {
      sql: `
        INSERT OR IGNORE INTO deliveries (webhook_id, event_at, event_id, type, state, due_at, attempts)
        SELECT w.id, e.created_at, e.id, e.type, 'waiting', min(e.created_at / 1000, :now), 0
        FROM (${NEXT}) AS e JOIN webhooks AS w ON w.workspace_id = :chain
        WHERE w.state = 'enabled' AND e.created_at > w.starts_after AND ${WANTED}`,
      args: { ...args, now },
    },
    {
      sql: `
        INSERT INTO fanouts (chain, event_at)
        SELECT :chain, reached FROM (SELECT max(created_at) AS reached FROM (${NEXT})) WHERE reached IS NOT NULL
        ON CONFLICT (chain) DO UPDATE SET event_at = excluded.event_at
        RETURNING event_at`,
      args,
    },
  ];
}

/** One row when the webhook wants the event of this place in its workspace's log. */
export function wanted(
  webhook: { readonly id: WebhookId; readonly workspaceId: WorkspaceId },
  at: number,
): InStatement {
  return {
    sql: `SELECT 1 FROM events AS e JOIN webhooks AS w ON w.id = :id
          WHERE e.chain = :chain AND e.created_at = :at AND ${WANTED}`,
    args: { id: webhook.id, chain: webhook.workspaceId, at },
  };
}

/** Events after one time and up to another, both in microseconds. */
export interface Range {
  readonly after: number;
  readonly upTo: number;
  /** Only those whose delivery was given up. */
  readonly deadOnly: boolean;
}

/**
 * The next events of a range, at most `limit`, delivered once more, with a whole schedule of attempts. The second
 * statement returns the last of the events looked at (`event_at`, `event_id`) and how many there were (`events`).
 */
export function replay(
  webhook: { readonly id: WebhookId; readonly workspaceId: WorkspaceId },
  { after, upTo, deadOnly }: Range,
  { limit, now }: { readonly limit: number; readonly now: number },
): [InStatement, InStatement] {
  const range = { chain: webhook.workspaceId, after, upTo, limit };
  const next = `
    SELECT created_at, id, type, namespace, body FROM events
    WHERE chain = :chain AND created_at > :after AND created_at <= :upTo ORDER BY created_at LIMIT :limit`;
  const dead = `EXISTS (
    SELECT 1 FROM deliveries AS d WHERE d.webhook_id = :id AND d.event_at = e.created_at AND d.state = 'dead')`;
  return [
    {
      sql: `
        INSERT INTO deliveries (webhook_id, event_at, event_id, type, state, due_at, attempts)
        SELECT w.id, e.created_at, e.id, e.type, 'waiting', :now, 0
        FROM (${next}) AS e JOIN webhooks AS w ON w.id = :id
        WHERE ${WANTED}${deadOnly ? ` AND ${dead}` : ""}
        ON CONFLICT (webhook_id, event_at) DO UPDATE
          SET state = 'waiting', due_at = excluded.due_at, attempts = 0, error = NULL`,
      args: { ...range, id: webhook.id, now },
    },
    {
      sql: `SELECT created_at AS event_at, id AS event_id, (SELECT count(*) FROM (${next})) AS events
            FROM (${next}) ORDER BY created_at DESC LIMIT 1`,
      args: range,
    },
  ];
}
