import { defineCommand } from "citty";
import { z } from "zod";
import { print, shortTime, table } from "./output.ts";
import { strict } from "./strict.ts";
import { confirm, terminal, yesArgument } from "./terminal.ts";
import { deliveries, replay } from "./webhook-deliveries.ts";
import { idArgument, webhookArguments, webhooksOf } from "./webhook-option.ts";

const webhookRow = z.object({
  webhook_id: z.string(),
  url: z.string(),
  events: z.array(z.string()),
  namespace: z.string().nullable(),
  description: z.string().nullable(),
  enabled: z.boolean(),
  disabled_reason: z.string().nullable(),
  created_at: z.string(),
  last_delivery_ok: z.boolean().nullable(),
  last_delivery_status: z.number().nullable(),
  last_delivery_error: z.string().nullable(),
  last_delivery_at: z.string().nullable(),
});

const create = defineCommand({
  meta: { name: "create", description: "Send events to a URL; the signing secret is shown this once" },
  plugins: [strict],
  args: {
    url: { type: "positional", description: "https://…", required: true },
    events: {
      type: "string",
      description: "Which, with commas: types, or all of a kind (file.*); all, unless given",
      valueHint: "TYPES",
    },
    namespace: { type: "string", description: "Only this namespace's", valueHint: "NAME" },
    description: { type: "string", description: "What it is for", valueHint: "TEXT" },
    ...webhookArguments,
  },
  async run({ args }) {
    const { appliance, path } = await webhooksOf(args);
    const made = await appliance.ask(webhookRow.extend({ signing_secret: z.string() }), path, {
      method: "POST",
      json: {
        url: args.url,
        events: args.events?.split(",").map((type) => type.trim()) ?? ["*"],
        namespace: args.namespace ?? null,
        description: args.description ?? null,
      },
    });
    // The secret alone on stdout, so that it can be piped to where it is kept.
    print(args.json, made, () => made.signing_secret);
    if (args.json !== true)
      process.stderr.write(`${made.webhook_id}: keep the secret above, it is not shown again.\n`);
  },
});

const list = defineCommand({
  meta: { name: "list", description: "The webhooks, and how the last delivery of each went" },
  plugins: [strict],
  args: webhookArguments,
  async run({ args }) {
    const { appliance, path } = await webhooksOf(args);
    const answer = await appliance.ask(z.object({ webhooks: z.array(webhookRow) }), path);
    print(args.json, answer, () =>
      table(
        answer.webhooks.map((row) => ({
          webhook: row.webhook_id,
          url: row.url,
          events: row.events.join(","),
          namespace: row.namespace ?? "any",
          state: row.enabled ? "enabled" : "disabled",
          "last delivery": lastDelivery(row),
        })),
        "The workspace has no webhook; make one with: cofferdam webhook create URL",
      ),
    );
  },
});

function lastDelivery(row: z.infer<typeof webhookRow>): string {
  if (row.last_delivery_ok === null) return "none yet";
  const how = row.last_delivery_ok ? "ok" : `failed (${row.last_delivery_status ?? "no answer"})`;
  return `${shortTime(row.last_delivery_at)} ${how}`;
}

const remove = defineCommand({
  meta: { name: "delete", description: "Delete a webhook with what waits for it" },
  plugins: [strict],
  args: { ...idArgument, ...yesArgument, ...webhookArguments },
  async run({ args }) {
    const { appliance, path } = await webhooksOf(args, args.id);
    await confirm(`Delete the webhook ${args.id} and all that it has not been sent yet?`, args.yes);
    const answer = await appliance.ask(z.object({ deleted: z.string() }), path, { method: "DELETE" });
    print(args.json, answer, () => `${answer.deleted} is deleted.`);
  },
});

const test = defineCommand({
  meta: { name: "test", description: "Send a webhook.test event now, and tell what came back" },
  plugins: [strict],
  args: { ...idArgument, ...webhookArguments },
  async run({ args }) {
    const { appliance, path } = await webhooksOf(args, args.id);
    const answer = await appliance.ask(
      z.object({
        ok: z.boolean(),
        event_id: z.string(),
        status: z.number().nullable(),
        error: z.string().nullable(),
      }),
      `${path}/test`,
      { method: "POST" },
    );
    print(args.json, answer, () =>
      answer.ok ? `It answered ${answer.status}.` : `It failed: ${answer.error ?? ""}`,
    );
    if (!answer.ok) process.exitCode = 1;
  },
});

const rotate = defineCommand({
  meta: { name: "rotate", description: "Make a new signing secret; the old one signs beside it for a day" },
  plugins: [strict],
  args: {
    ...idArgument,
    "overlap-s": {
      type: "string",
      description: "How long the old one goes on: 0 for not at all, when it leaked",
      valueHint: "SECONDS",
    },
    ...webhookArguments,
  },
  async run({ args }) {
    const { appliance, path } = await webhooksOf(args, args.id);
    const overlap = args["overlap-s"];
    const made = await appliance.ask(
      z.object({ webhook_id: z.string(), signing_secret: z.string(), previous_valid_until: z.string() }),
      `${path}/rotate`,
      { method: "POST", json: { overlap_s: overlap === undefined ? null : Number(overlap) } },
    );
    print(args.json, made, () => made.signing_secret);
    if (args.json !== true)
      terminal.info(
        overlap !== undefined && Number(overlap) === 0
          ? "the one before signs no more; this one is not shown again."
          : `the one before is good until ${shortTime(made.previous_valid_until)} UTC; this one is not shown again.`,
      );
  },
});

const state = (verb: "enable" | "disable", description: string) =>
  defineCommand({
    meta: { name: verb, description },
    plugins: [strict],
    args: { ...idArgument, ...webhookArguments },
    async run({ args }) {
      const { appliance, path } = await webhooksOf(args, args.id);
      const row = await appliance.ask(webhookRow, `${path}/${verb}`, {
        method: "POST",
      });
      print(args.json, row, () => `${row.webhook_id} is ${verb}d.`);
    },
  });

export const webhook = defineCommand({
  meta: { name: "webhook", description: "Webhooks: events, sent to a URL as they happen" },
  subCommands: {
    create,
    list,
    delete: remove,
    test,
    rotate,
    enable: state("enable", "Send to a webhook again, from now on and what waited"),
    disable: state("disable", "Send nothing to a webhook until it is enabled again"),
    deliveries,
    replay,
  },
});
