import { defineCommand } from "citty";
import { EventSourceParserStream, type EventSourceMessage } from "eventsource-parser/stream";
import { z } from "zod";
import { AppError } from "../errors.ts";
import { connect, type Appliance } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { cellsOf, eventRow } from "./event-line.ts";
import { choiceArguments, queryOf, sourceOf } from "./event-choice.ts";
import { jsonArgument, writeBytes } from "./output.ts";
import { strict } from "./strict.ts";
import { terminal } from "./terminal.ts";
import { workspaceArgument } from "./workspace-option.ts";

export const tail = defineCommand({
  meta: {
    name: "tail",
    description:
      "What happens, as it happens. Goes on after a restart of the appliance without missing any; Ctrl-C ends it.",
  },
  plugins: [strict],
  args: { ...choiceArguments, ...workspaceArgument, ...dataArgument, ...jsonArgument },
  async run({ args }) {
    const appliance = connect(args.data);
    const query = queryOf({ ...args, since: args.since ?? "now" });
    const { stream } = await sourceOf(appliance, args);
    const show = args.json === true ? String : shown;
    for await (const body of following(appliance, `${stream}?${query.toString()}`)) {
      await writeBytes(process.stdout, new TextEncoder().encode(`${show(body)}\n`));
    }
  },
});

const lagged = z.object({ since: z.string(), detail: z.string() });
const AGAIN_MS = 500;

/** The events' JSON, over as many connections as it takes. It throws when the first of them fails, or one is refused. */
async function* following(appliance: Appliance, path: string): AsyncGenerator<string, never> {
  let last: string | null = null;
  const seen = { connected: false, away: false };
  for (;;) {
    try {
      const response = await appliance.call(
        path,
        last === null ? {} : { headers: { "last-event-id": last } },
      );
      Object.assign(seen, { connected: true, away: false });
      for await (const { id, event, data } of messagesOf(response)) {
        if (event === "lagged") {
          const { since, detail } = lagged.parse(JSON.parse(data));
          terminal.warn(`${detail} (${since})`);
        } else if (id !== undefined) {
          yield data;
          last = id;
        }
      }
    } catch (error) {
      // Away, or ended in the middle of an answer: it will be back.
      const isRefused = error instanceof AppError && error.code !== "unavailable";
      if (!seen.connected || isRefused) throw error;
      if (!seen.away) terminal.warn("the appliance is away; this goes on when it is back.");
      seen.away = true;
    }
    await Bun.sleep(AGAIN_MS);
  }
}

function messagesOf(response: Response): AsyncIterable<EventSourceMessage> {
  if (response.body === null) throw new AppError("unavailable", "The appliance answered nothing.");
  return response.body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
}

function shown(body: string): string {
  const { time, type, namespace, by, what } = cellsOf(eventRow.parse(JSON.parse(body)));
  return [time, type.padEnd(18), namespace.padEnd(16), by.padEnd(20), what].join("  ");
}
