import { defineCommand } from "citty";
import { z } from "zod";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { cellsOf, eventRow } from "./event-line.ts";
import { choiceArguments, queryOf, sourceOf } from "./event-choice.ts";
import { jsonArgument, print, table } from "./output.ts";
import { strict } from "./strict.ts";
import { terminal } from "./terminal.ts";
import { workspaceArgument } from "./workspace-option.ts";

export const list = defineCommand({
  meta: { name: "list", description: "What happened, newest first" },
  plugins: [strict],
  args: {
    ...choiceArguments,
    limit: { type: "string", description: "How many at most, up to 1000", valueHint: "N", default: "20" },
    cursor: { type: "string", description: "Go on where an earlier list ended", valueHint: "CURSOR" },
    ...workspaceArgument,
    ...dataArgument,
    ...jsonArgument,
  },
  async run({ args }) {
    const appliance = connect(args.data);
    const query = queryOf(args);
    query.set("limit", args.limit);
    if (args.cursor !== undefined) query.set("cursor", args.cursor);
    const { list } = await sourceOf(appliance, args);
    const page = z.object({ events: z.array(eventRow), next_cursor: z.string().nullable() });
    const answer = await appliance.ask(page, `${list}?${query.toString()}`);
    print(args.json, answer, () => table(answer.events.map(cellsOf), "There is no such event."));
    if (answer.next_cursor !== null && args.json !== true) {
      terminal.info(`there are older ones: repeat this with --cursor ${answer.next_cursor}`);
    }
  },
});
