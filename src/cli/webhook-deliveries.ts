import { defineCommand } from "citty";
import { z } from "zod";
import { AppError } from "../errors.ts";
import { print, shortTime, table } from "./output.ts";
import { sinceOf } from "./since.ts";
import { strict } from "./strict.ts";
import { terminal } from "./terminal.ts";
import { idArgument, webhookArguments, webhooksOf } from "./webhook-option.ts";

const deliveryList = z.object({
  deliveries: z.array(
    z.object({
      event_id: z.string(),
      type: z.string(),
      created_at: z.string(),
      state: z.string(),
      attempts: z.number(),
      last_attempt_at: z.string().nullable(),
      next_attempt_at: z.string().nullable(),
      status: z.number().nullable(),
      error: z.string().nullable(),
    }),
  ),
  next_cursor: z.string().nullable(),
});

export const deliveries = defineCommand({
  meta: { name: "deliveries", description: "What was sent to a webhook, waits for it, or was given up" },
  plugins: [strict],
  args: {
    ...idArgument,
    state: { type: "string", description: "waiting, delivered or dead", valueHint: "STATE" },
    limit: { type: "string", description: "So many, the newest first", default: "20", valueHint: "N" },
    cursor: { type: "string", description: "Go on where an earlier list ended", valueHint: "CURSOR" },
    ...webhookArguments,
  },
  async run({ args }) {
    const { appliance, path } = await webhooksOf(args, args.id);
    const query = new URLSearchParams({ limit: args.limit });
    if (args.state !== undefined) query.set("state", args.state);
    if (args.cursor !== undefined) query.set("cursor", args.cursor);
    const answer = await appliance.ask(deliveryList, `${path}/deliveries?${query.toString()}`);
    print(args.json, answer, () =>
      table(
        answer.deliveries.map((row) => ({
          event: row.event_id,
          type: row.type,
          created: shortTime(row.created_at),
          state: row.state,
          attempts: String(row.attempts),
          next: row.next_attempt_at === null ? "-" : shortTime(row.next_attempt_at),
          last: row.error ?? (row.status === null ? "-" : String(row.status)),
        })),
        "There is none.",
      ),
    );
    if (answer.next_cursor !== null && args.json !== true) {
      terminal.info(`there are older ones: repeat this with --cursor ${answer.next_cursor}`);
    }
  },
});

export const replay = defineCommand({
  meta: { name: "replay", description: "Send one event again, or all since a time or an event" },
  plugins: [strict],
  args: {
    ...idArgument,
    event: { type: "positional", description: "Only this one, evt-…", required: false },
    since: {
      type: "string",
      description: "Those that came after: a time ago, as 5m or 1h30m, or a time in ISO 8601",
      valueHint: "WHEN",
    },
    until: { type: "string", description: "Those up to then", valueHint: "WHEN" },
    after: { type: "string", description: "Those after this event", valueHint: "EVENT" },
    dead: { type: "boolean", description: "Of those, only what was given up" },
    ...webhookArguments,
  },
  async run({ args }) {
    const { appliance, path } = await webhooksOf(args, args.id);
    if (args.event !== undefined) {
      if (args.since !== undefined || args.until !== undefined || args.after !== undefined) {
        throw new AppError("bad_input", "Name one event, or a range by --since, --until and --after.");
      }
      const one = `${path}/deliveries/${encodeURIComponent(args.event)}/replay`;
      const answer = await appliance.ask(z.object({ event_id: z.string(), state: z.string() }), one, {
        method: "POST",
      });
      return print(args.json, answer, () => `${answer.event_id} is sent again.`);
    }
    if (args.since === undefined && args.after === undefined) {
      throw new AppError(
        "bad_input",
        "Say what to send again: an event's id, or from where by --since or --after.",
      );
    }
    const now = Date.now();
    const time = (option: "since" | "until") => {
      const text = args[option];
      return text === undefined ? undefined : sinceOf(text, now, `--${option}`);
    };
    const until = time("until");
    let queued = 0;
    let range: Record<string, unknown> = { since: time("since"), until, cursor: args.after };
    for (;;) {
      const answer = await appliance.ask(
        z.object({ queued: z.number(), cursor: z.string().nullable() }),
        `${path}/replay`,
        { method: "POST", json: { ...range, dead_only: args.dead ?? false } },
      );
      queued += answer.queued;
      if (answer.cursor === null) break;
      range = { until, cursor: answer.cursor };
    }
    print(args.json, { queued }, () => `${queued} ${queued === 1 ? "event is" : "events are"} sent again.`);
  },
});
