import { Elysia } from "elysia";
import { z } from "zod";
import { microTimestamp } from "../audit/event.ts";
import { parseInstant } from "../audit/instant.ts";
import { isKnownPattern } from "../audit/types.ts";
import { AppError } from "../errors.ts";
import { eventId, namespaceName, webhookId, type WebhookId, type WorkspaceId } from "../ids.ts";
import type { Delivery } from "../webhooks/history.ts";
import type { StartedWebhooks } from "../webhooks/start.ts";
import type { Webhook } from "../webhooks/webhook.ts";
import { OVERLAP_MS } from "../webhooks/webhooks.ts";
import type { Access } from "./auth.ts";
import { label, readJson, text } from "./http/body.ts";
import { timestamp } from "./http/time.ts";

interface WebhookRoutesParts {
  readonly access: Access;
  readonly webhooks: StartedWebhooks;
}

const MAX_URL = 2048;
const MAX_PATTERNS = 50;

const newWebhook = z.strictObject({
  url: text.max(MAX_URL, `has more than ${MAX_URL} characters`),
  events: z
    .array(
      z
        .string()
        .refine(
          (pattern) => isKnownPattern(pattern),
          'expected "*", a type such as "file.written", or all of a kind, such as "file.*"',
        ),
    )
    .min(1, 'names no event; leave it out, or send ["*"], for all')
    .max(MAX_PATTERNS, `has more than ${MAX_PATTERNS} entries`)
    .nullish(),
  namespace: namespaceName.nullish(),
  description: label.nullish(),
});

const rotation = z.strictObject({
  overlap_s: z
    .int()
    .min(0, "the least is 0")
    .max(OVERLAP_MS / 1000, "the most is 86400, a day")
    .nullish(),
});

/** In microseconds. */
const moment = z.string().transform((value, context) => {
  const time = parseInstant(value);
  if (time !== null) return time;
  context.addIssue("expected a time such as 2026-11-26T20:18:51.123456Z");
  return z.NEVER;
});
const range = z.strictObject({
  since: moment.nullish(),
  until: moment.nullish(),
  cursor: eventId.schema.nullish(),
  dead_only: z.boolean().nullish(),
});

const MAX_LISTED = 1000;
/** The time of the last event shown, in microseconds. */
const CURSOR = /^\d{1,16}$/;
const listing = z.strictObject({
  state: z.enum(["waiting", "delivered", "dead"]).optional(),
  limit: z.coerce.number().int().min(1).max(MAX_LISTED).default(100),
  cursor: z.string().regex(CURSOR).optional(),
});

export function webhookRoutes({ access, webhooks }: WebhookRoutesParts) {
  async function named(
    request: Request,
    params: { readonly ws: string; readonly id: string },
  ): Promise<{ workspaceId: WorkspaceId; id: WebhookId }> {
    const workspaceId = await access.admin(request, params.ws);
    const id = webhookId.schema.safeParse(params.id);
    if (!id.success) throw new AppError("not_found", "A webhook's id is like wh-….");
    return { workspaceId, id: id.data };
  }

  return new Elysia({ prefix: "/v1/workspaces/:ws/webhooks" })
    .post(
      "",
      async ({ request, params }) => {
        const workspaceId = await access.admin(request, params.ws);
        const { url, events, namespace, description } = await readJson(request, newWebhook);
        const wanted = {
          url: url.trim(),
          events: events ?? ["*"],
          namespace: namespace ?? null,
          description: description ?? null,
        };
        const made = await webhooks.create(workspaceId, wanted, access.origin(request));
        return { ...shown(made.webhook), signing_secret: made.signingSecret };
      },
      { parse: "none" },
    )
    .get("", async ({ request, params }) => {
      const workspaceId = await access.admin(request, params.ws);
      return { webhooks: (await webhooks.list(workspaceId)).map(shown) };
    })
    .delete(
      "/:id",
      async ({ request, params: { ws, id: text } }) => {
        const { workspaceId, id } = await named(request, { ws, id: text });
        await webhooks.remove(workspaceId, id, access.origin(request));
        return { deleted: id };
      },
      { parse: "none" },
    )
    .post(
      "/:id/test",
      async ({ request, params: { ws, id: text } }) => {
        const { workspaceId, id } = await named(request, { ws, id: text });
        const { eventId, outcome } = await webhooks.test(workspaceId, id, access.origin(request));
        return { ok: outcome.ok, event_id: eventId, status: outcome.status, error: outcome.error };
      },
      { parse: "none" },
    )
    .post(
      "/:id/rotate",
      async ({ request, params: { ws, id: text } }) => {
        const { workspaceId, id } = await named(request, { ws, id: text });
        const { overlap_s } = await readOptional(request, rotation);
        const overlapMs = overlap_s === null || overlap_s === undefined ? OVERLAP_MS : overlap_s * 1000;
        const made = await webhooks.rotate(workspaceId, id, overlapMs, access.origin(request));
        return {
          webhook_id: id,
          signing_secret: made.signingSecret,
          previous_valid_until: timestamp(made.previousUntil),
        };
      },
      { parse: "none" },
    )
    .post(
      "/:id/enable",
      async ({ request, params: { ws, id: text } }) => {
        const { workspaceId, id } = await named(request, { ws, id: text });
        return shown(await webhooks.enable(workspaceId, id, access.origin(request)));
      },
      { parse: "none" },
    )
    .post(
      "/:id/disable",
      async ({ request, params: { ws, id: text } }) => {
        const { workspaceId, id } = await named(request, { ws, id: text });
        return shown(await webhooks.disable(workspaceId, id, access.origin(request)));
      },
      { parse: "none" },
    )
    .get("/:id/deliveries", async ({ request, params: { ws, id: text } }) => {
      const { workspaceId, id } = await named(request, { ws, id: text });
      const { state, limit, cursor } = readListing(request);
      const webhook = await webhooks.get(workspaceId, id);
      const before = cursor === undefined ? null : Number(cursor);
      const found = await webhooks.deliveries(webhook, { state: state ?? null, before, limit });
      const last = found.length < limit ? undefined : found.at(-1);
      const next_cursor = last === undefined ? null : String(last.eventAt);
      return { deliveries: found.map(shownDelivery), next_cursor };
    })
    .post(
      "/:id/deliveries/:event/replay",
      async ({ request, params: { ws, id: text, event } }) => {
        const { workspaceId, id } = await named(request, { ws, id: text });
        const webhook = await webhooks.get(workspaceId, id);
        await webhooks.replayOne(webhook, event, access.origin(request));
        return { event_id: event, state: "waiting" };
      },
      { parse: "none" },
    )
    .post(
      "/:id/replay",
      async ({ request, params: { ws, id: text } }) => {
        const { workspaceId, id } = await named(request, { ws, id: text });
        const { since, until, cursor, dead_only } = await readJson(request, range);
        const webhook = await webhooks.get(workspaceId, id);
        const from = typeof cursor === "string" ? await webhooks.eventAt(workspaceId, cursor) : since;
        if (typeof from !== "number") {
          throw new AppError("invalid", "Say from where: since, a time, or cursor, an event's id.");
        }
        const upTo = until ?? Number.MAX_SAFE_INTEGER;
        return webhooks.replayRange(
          webhook,
          { after: from, upTo, deadOnly: dead_only === true },
          access.origin(request),
        );
      },
      { parse: "none" },
    );
}

function shown(webhook: Webhook) {
  const { lastDelivery } = webhook;
  return {
    webhook_id: webhook.id,
    url: webhook.url,
    events: webhook.events,
    namespace: webhook.namespace,
    description: webhook.description,
    enabled: webhook.enabled,
    disabled_reason: webhook.disabledReason,
    created_at: timestamp(webhook.createdAt),
    last_delivery_ok: lastDelivery?.ok ?? null,
    last_delivery_status: lastDelivery?.status ?? null,
    last_delivery_error: lastDelivery?.error ?? null,
    last_delivery_at: lastDelivery === null ? null : timestamp(lastDelivery.at),
  };
}

function shownDelivery(delivery: Delivery) {
  return {
    event_id: delivery.eventId,
    type: delivery.type,
    created_at: microTimestamp(delivery.eventAt),
    state: delivery.state,
    attempts: delivery.attempts,
    last_attempt_at: delivery.attemptedAt === null ? null : timestamp(delivery.attemptedAt),
    next_attempt_at: delivery.dueAt === null ? null : timestamp(delivery.dueAt),
    status: delivery.status,
    error: delivery.error,
  };
}

function readListing(request: Request): z.infer<typeof listing> {
  const result = listing.safeParse(Object.fromEntries(new URL(request.url).searchParams));
  if (result.success) return result.data;
  throw new AppError(
    "invalid",
    `The query takes state (waiting, delivered or dead), limit (1 to ${MAX_LISTED}) and cursor (a next_cursor).`,
  );
}

/** For a call that needs no body. */
async function readOptional<S extends z.ZodType>(request: Request, schema: S): Promise<z.infer<S>> {
  return request.body === null ? schema.parse({}) : readJson(request, schema);
}
