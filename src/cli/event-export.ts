import { defineCommand } from "citty";
import { z } from "zod";
import { AppError } from "../errors.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print, writeBytes } from "./output.ts";
import { strict } from "./strict.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

export const exportEvents = defineCommand({
  meta: { name: "export", description: "All events of a workspace as lines of JSON that anybody can verify" },
  plugins: [strict],
  args: {
    ...workspaceArgument,
    appliance: { type: "boolean", description: "Those that belong to no workspace" },
    ...dataArgument,
  },
  async run({ args }) {
    if (args.appliance === true && args.workspace !== undefined) {
      throw new AppError("bad_input", "Give either --workspace or --appliance.");
    }
    const appliance = connect(args.data);
    const chain = args.appliance === true ? "appliance" : await workspaceOf(appliance, args.workspace);
    const { body } = await appliance.call(`/admin/audit/export?chain=${chain}`);
    for await (const bytes of body ?? []) await writeBytes(process.stdout, bytes);
  },
});

export const key = defineCommand({
  meta: { name: "key", description: "The public key that exports and checkpoints are verified with" },
  plugins: [strict],
  args: { ...dataArgument, ...jsonArgument },
  async run({ args }) {
    const answer = await connect(args.data).ask(z.object({ public_key: z.string() }), "/admin/audit/key");
    print(args.json, answer, () => answer.public_key.trimEnd());
  },
});
