import { and, asc, count, eq, ne } from "drizzle-orm";
import type { EventDraft, EventData, Origin, StoredEvent } from "../audit/event.ts";
import { APPLIANCE } from "../audit/event.ts";
import { unchanged, type Ledger } from "../audit/ledger.ts";
import type { Database } from "../db/open.ts";
import { webhooks as table } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import { webhookId, type WebhookId, type WorkspaceId } from "../ids.ts";
import type { Secrets } from "../secrets.ts";
import type { Outcome, Sendable } from "./attempt.ts";
import type { Clock } from "./clock.ts";
import type { Dispatcher } from "./dispatcher.ts";
import type { Target } from "./endpoint.ts";
import { makeSigningSecret } from "./signature.ts";
import { maskedUrl, webhookOf, type NewWebhook, type Webhook, type WebhookRow } from "./webhook.ts";

export interface WebhooksParts {
  readonly db: Database;
  readonly ledger: Pick<Ledger, "append" | "change" | "durable" | "head">;
  readonly secrets: Pick<Secrets, "seal" | "open">;
  readonly clock: Clock;
  readonly dispatcher: Pick<Dispatcher, "put" | "publish" | "remove" | "probe">;
  /** The URL in its one spelling. Throws what to tell the caller when nothing may be sent there. */
  readonly check: (url: string) => Promise<string>;
}

/** Of one workspace: every event of it may become so many deliveries. */
const MOST = 50;
const PURPOSE = "webhook secret";
/** How long the secret before a rotation goes on signing, when nothing else is asked for. */
export const OVERLAP_MS = 24 * 60 * 60_000;

/** The endpoints of the workspaces. Each change is in the audit log. */
export function createWebhooks({ db, ledger, secrets, clock, dispatcher, check }: WebhooksParts) {
  const testing = new Set<WebhookId>();

  const seal = (id: WebhookId, secret: string) => Buffer.from(secrets.seal(PURPOSE, Buffer.from(secret), id));
  const unseal = (id: WebhookId, sealed: Uint8Array) =>
    Buffer.from(secrets.open(PURPOSE, sealed, id)).toString();

  async function rowOf(workspaceId: WorkspaceId, id: WebhookId): Promise<WebhookRow> {
    const [row] = await db
      .select()
      .from(table)
      .where(and(eq(table.id, id), eq(table.workspaceId, workspaceId), ne(table.state, "deleted")));
    if (row === undefined) throw noWebhook();
    return row;
  }

  function targetOf(row: WebhookRow): Target {
    const { id, workspaceId, url, previousSecret, previousUntil, failingSince, lastDeliveryAt } = row;
    const previous =
      previousSecret === null || previousUntil === null
        ? null
        : { secret: unseal(id, previousSecret), until: previousUntil };
    return { id, workspaceId, url, secret: unseal(id, row.secret), previous, failingSince, lastDeliveryAt };
  }

  /** The dispatcher hears only of what happens while it knows of a webhook; this tells it of what happened just before. */
  async function begin(rows: readonly WebhookRow[]): Promise<void> {
    for (const row of rows) dispatcher.put(targetOf(row));
    const chains = [...new Set(rows.map((row) => row.workspaceId))];
    const heads = chains.map((chain) => [chain, ledger.head(chain)?.createdAt ?? 0] as const);
    await ledger.durable();
    for (const [chain, upTo] of heads) dispatcher.publish(chain, upTo);
  }

  /** Enabled or not, of one that is not deleted; no event when it is so already. */
  async function setEnabled(
    workspaceId: WorkspaceId,
    id: WebhookId,
    { enabled, reason, origin }: { enabled: boolean; reason: string | null; origin: Origin },
  ): Promise<Webhook> {
    const row = await ledger.change(async () => {
      const before = await rowOf(workspaceId, id);
      if ((before.state === "enabled") === enabled) return unchanged(before);
      const change = enabled
        ? {
            state: "enabled" as const,
            disabledReason: null,
            failingSince: null,
            startsAfter: ledger.head(workspaceId)?.createdAt ?? 0,
          }
        : { state: "disabled" as const, disabledReason: reason };
      const data = enabled ? {} : { reason };
      return {
        statements: [db.update(table).set(change).where(eq(table.id, id))],
        events: [eventOf(enabled ? "webhook.enabled" : "webhook.disabled", before, origin, data)],
        result: { ...before, ...change },
      };
    });
    if (enabled) await begin([row]);
    else dispatcher.remove(id);
    return webhookOf(row);
  }

  return {
    /** `signingSecret` is shown this once. */
    async create(
      workspaceId: WorkspaceId,
      wanted: NewWebhook,
      origin: Origin,
    ): Promise<{ webhook: Webhook; signingSecret: string }> {
      const url = await check(wanted.url);
      const id = webhookId.make();
      const signingSecret = makeSigningSecret();
      const row = await ledger.change(async () => {
        const [found] = await db
          .select({ n: count() })
          .from(table)
          .where(and(eq(table.workspaceId, workspaceId), ne(table.state, "deleted")));
        if ((found?.n ?? 0) >= MOST) {
          throw new AppError(
            "conflict",
            `The workspace has ${MOST} webhooks, the most there may be; delete one first.`,
          );
        }
        const row: WebhookRow = {
          id,
          workspaceId,
          ...wanted,
          url,
          events: [...wanted.events],
          createdAt: clock.now(),
          state: "enabled",
          disabledReason: null,
          startsAfter: ledger.head(workspaceId)?.createdAt ?? 0,
          secret: seal(id, signingSecret),
          previousSecret: null,
          previousUntil: null,
          failingSince: null,
          lastDeliveryOk: null,
          lastDeliveryStatus: null,
          lastDeliveryAt: null,
          lastDeliveryError: null,
        };
        const { description } = wanted;
        return {
          statements: [db.insert(table).values(row)],
          events: [eventOf("webhook.created", row, origin, { events: row.events, description })],
          result: row,
        };
      });
      await begin([row]);
      return { webhook: webhookOf(row), signingSecret };
    },

    /** Oldest first. */
    async list(workspaceId: WorkspaceId): Promise<Webhook[]> {
      const rows = await db
        .select()
        .from(table)
        .where(and(eq(table.workspaceId, workspaceId), ne(table.state, "deleted")))
        .orderBy(asc(table.createdAt), asc(table.id));
      return rows.map(webhookOf);
    },

    get: async (workspaceId: WorkspaceId, id: WebhookId): Promise<Webhook> =>
      webhookOf(await rowOf(workspaceId, id)),

    /** Nothing more is sent, what is under way is broken off, and its secrets are gone. */
    async remove(workspaceId: WorkspaceId, id: WebhookId, origin: Origin): Promise<void> {
      await ledger.change(async () => {
        const row = await rowOf(workspaceId, id);
        const gone = { state: "deleted" as const, secret: Buffer.alloc(0), previousSecret: null };
        return {
          statements: [db.update(table).set(gone).where(eq(table.id, id))],
          events: [eventOf("webhook.deleted", row, origin, {})],
          result: undefined,
        };
      });
      dispatcher.remove(id);
    },

    /** A new secret, shown this once; the one before goes on signing beside it until `previousUntil`. */
    async rotate(
      workspaceId: WorkspaceId,
      id: WebhookId,
      overlapMs: number,
      origin: Origin,
    ): Promise<{ signingSecret: string; previousUntil: number }> {
      const signingSecret = makeSigningSecret();
      const previousUntil = clock.now() + overlapMs;
      const row = await ledger.change(async () => {
        const before = await rowOf(workspaceId, id);
        const change = {
          secret: seal(id, signingSecret),
          previousSecret: overlapMs === 0 ? null : before.secret,
          previousUntil: overlapMs === 0 ? null : previousUntil,
        };
        return {
          statements: [db.update(table).set(change).where(eq(table.id, id))],
          events: [eventOf("webhook.rotated", before, origin, { overlap_s: Math.floor(overlapMs / 1000) })],
          result: { ...before, ...change },
        };
      });
      if (row.state === "enabled") dispatcher.put(targetOf(row));
      return { signingSecret, previousUntil };
    },

    enable: (workspaceId: WorkspaceId, id: WebhookId, origin: Origin) =>
      setEnabled(workspaceId, id, { enabled: true, reason: null, origin }),

    disable: (workspaceId: WorkspaceId, id: WebhookId, origin: Origin) =>
      setEnabled(workspaceId, id, { enabled: false, reason: "It was disabled by hand.", origin }),

    /** By the appliance itself. One that somebody deleted meanwhile is left alone. */
    async giveUp(id: WebhookId, reason: string): Promise<void> {
      const [row] = await db.select().from(table).where(eq(table.id, id));
      if (row === undefined) return;
      try {
        await setEnabled(row.workspaceId, id, { enabled: false, reason, origin: APPLIANCE });
      } catch (error) {
        if (!(error instanceof AppError && error.code === "not_found")) throw error;
      }
    },

    /** Sends an event of its own now, once, also when the webhook is disabled. */
    async test(
      workspaceId: WorkspaceId,
      id: WebhookId,
      origin: Origin,
    ): Promise<{ eventId: string; outcome: Outcome }> {
      if (testing.has(id)) {
        throw new AppError("busy", "A test of this webhook is under way; wait for its answer.", {
          retryAfterS: 15,
        });
      }
      testing.add(id);
      try {
        const row = await rowOf(workspaceId, id);
        const message = "A test of this webhook. If you can read this, deliveries arrive.";
        const [event] = await ledger.append([eventOf("webhook.test", row, origin, { message })]);
        if (event === undefined) throw new Error("the audit log gave no event back");
        const outcome = await dispatcher.probe(targetOf(row), sent(event));
        return { eventId: event.id, outcome };
      } finally {
        testing.delete(id);
      }
    },

    /** `data` says what is sent once more. */
    async recordReplay(webhook: Webhook, origin: Origin, data: EventData): Promise<void> {
      await ledger.append([eventOf("webhook.replayed", webhook, origin, data)]);
    },

    /** Goes on where the last process was. */
    async resume(): Promise<void> {
      await begin(await db.select().from(table).where(eq(table.state, "enabled")));
    },
  };
}

/** Of the workspace, whatever namespace the webhook is for: that is the account's business. */
function eventOf(
  type: string,
  row: Pick<WebhookRow, "id" | "workspaceId" | "url" | "namespace">,
  origin: Origin,
  data: EventData,
): EventDraft {
  const about = { webhook_id: row.id, url: maskedUrl(row.url), namespace: row.namespace };
  return { chain: row.workspaceId, type, namespace: null, data: { ...about, ...data }, origin };
}

function sent({ id, type, body }: StoredEvent): Sendable {
  return { eventId: id, type, body, attempts: 1 };
}

function noWebhook(): AppError {
  return new AppError("not_found", "The workspace has no such webhook; it may have been deleted.");
}
