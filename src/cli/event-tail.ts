import { defineCommand } from "citty";
import { z } from "zod";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { cellsOf, eventRow } from "./event-line.ts";
import { choiceArguments, queryOf, sourceOf } from "./event-choice.ts";
import { messagesOf } from "./messages.ts";
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
    for await (const { id, event, data } of messagesOf(appliance, `${stream}?${query.toString()}`)) {
      if (event === "lagged") {
        const { since, detail } = lagged.parse(JSON.parse(data));
        terminal.warn(`${detail} (${since})`);
      } else if (id !== undefined) {
        await writeBytes(process.stdout, new TextEncoder().encode(`${show(data)}\n`));
      }
    }
  },
});

const lagged = z.object({ since: z.string(), detail: z.string() });
function shown(body: string): string {
  const { time, type, namespace, by, what } = cellsOf(eventRow.parse(JSON.parse(body)));
  return [time, type.padEnd(18), namespace.padEnd(16), by.padEnd(20), what].join("  ");
}
