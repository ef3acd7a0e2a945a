import { defineCommand } from "citty";
import { z } from "zod";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print, shortTime, table } from "./output.ts";
import { strict } from "./strict.ts";
import { usageOfWorkspace } from "./usage.ts";
import { policyOfWorkspace } from "./workspace-policy.ts";
import { workspaceList } from "./workspace-option.ts";

const create = defineCommand({
  meta: { name: "create", description: "Make a workspace; give it an admin key with key create --admin" },
  plugins: [strict],
  args: {
    name: { type: "positional", description: "What people call it", required: true },
    ...dataArgument,
    ...jsonArgument,
  },
  async run({ args }) {
    const made = await connect(args.data).ask(
      z.object({ workspace_id: z.string() }).loose(),
      "/admin/workspaces",
      {
        method: "POST",
        json: { name: args.name },
      },
    );
    print(args.json, made, () => made.workspace_id);
  },
});

const list = defineCommand({
  meta: { name: "list", description: "All workspaces" },
  plugins: [strict],
  args: { ...dataArgument, ...jsonArgument },
  async run({ args }) {
    const answer = await connect(args.data).ask(workspaceList, "/admin/workspaces");
    print(args.json, answer, () =>
      table(
        answer.workspaces.map((row) => ({
          workspace: row.workspace_id,
          name: row.name,
          created: shortTime(row.created_at),
        })),
        "There is no workspace yet.",
      ),
    );
  },
});

export const workspace = defineCommand({
  meta: { name: "workspace", description: "Accounts: each has its own keys and namespaces" },
  subCommands: { create, list, usage: usageOfWorkspace, policy: policyOfWorkspace },
});
