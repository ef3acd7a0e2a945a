import { defineCommand } from "citty";
import { z } from "zod";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print, shortSize, shortTime, table } from "./output.ts";
import { strict } from "./strict.ts";
import { confirm, yesArgument } from "./terminal.ts";
import { usageOfNamespaces } from "./usage.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

const common = { ...workspaceArgument, ...dataArgument, ...jsonArgument };

const namespaceList = z.object({
  namespaces: z.array(
    z.object({
      namespace: z.string(),
      size_bytes: z.number(),
      file_count: z.number(),
      created_at: z.string(),
      last_used_at: z.string(),
    }),
  ),
});

const list = defineCommand({
  meta: { name: "list", description: "The namespaces and what their files take" },
  plugins: [strict],
  args: common,
  async run({ args }) {
    const appliance = connect(args.data);
    const workspace = await workspaceOf(appliance, args.workspace);
    const answer = await appliance.ask(namespaceList, `/v1/workspaces/${workspace}/namespaces`);
    print(args.json, answer, () =>
      table(
        answer.namespaces.map((row) => ({
          namespace: row.namespace,
          size: shortSize(row.size_bytes),
          files: String(row.file_count),
          created: shortTime(row.created_at),
          "last used": shortTime(row.last_used_at),
        })),
        "The workspace has no namespace yet; the first write, command or key makes one.",
      ),
    );
  },
});

const remove = defineCommand({
  meta: { name: "delete", description: "Delete a namespace with its files and the keys locked to it" },
  plugins: [strict],
  args: { name: { type: "positional", description: "Its name", required: true }, ...yesArgument, ...common },
  async run({ args }) {
    const appliance = connect(args.data);
    const workspace = await workspaceOf(appliance, args.workspace);
    await confirm(
      `Delete the namespace "${args.name}" with all its files and the keys locked to it?`,
      args.yes,
    );
    const answer = await appliance.ask(
      z.object({ deleted: z.string() }),
      `/v1/workspaces/${workspace}/namespaces/${encodeURIComponent(args.name)}`,
      { method: "DELETE" },
    );
    print(args.json, answer, () => `${answer.deleted} is deleted.`);
  },
});

export const namespace = defineCommand({
  meta: { name: "namespace", description: "Namespaces: one end user's files each" },
  subCommands: { list, usage: usageOfNamespaces, delete: remove },
});
