import { defineCommand } from "citty";
import { z } from "zod";
import { connect, type Appliance } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print, shortSize, table } from "./output.ts";
import { strict } from "./strict.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

const usage = z.object({
  size_bytes: z.number(),
  file_count: z.number(),
  directory_count: z.number(),
  entry_count: z.number(),
  snapshot_count: z.number(),
});
const limits = z.object({
  size_bytes: z.number().nullable(),
  entry_count: z.number().nullable(),
  snapshot_count: z.number().nullable(),
});
const workspaceUsage = usage.extend({
  workspace_id: z.string(),
  namespace_count: z.number(),
  limits: limits.extend({ namespace_count: z.number().nullable() }),
  namespace_limits: limits,
  namespaces: z.array(usage.extend({ namespace: z.string() })),
});

const common = { ...workspaceArgument, ...dataArgument, ...jsonArgument };

async function ask(appliance: Appliance, workspace: string | undefined) {
  return appliance.ask(workspaceUsage, `/v1/workspaces/${await workspaceOf(appliance, workspace)}/usage`);
}

/** A workspace's, of what it may have. */
export const usageOfWorkspace = defineCommand({
  meta: { name: "usage", description: "What a workspace has, and may have" },
  plugins: [strict],
  args: common,
  async run({ args }) {
    const answer = await ask(connect(args.data), args.workspace);
    print(args.json, answer, () =>
      table(
        [
          { what: "size", ...columns(answer.size_bytes, answer.limits.size_bytes, shortSize) },
          { what: "files and directories", ...columns(answer.entry_count, answer.limits.entry_count) },
          { what: "snapshots", ...columns(answer.snapshot_count, answer.limits.snapshot_count) },
          { what: "namespaces", ...columns(answer.namespace_count, answer.limits.namespace_count) },
        ],
        "",
      ),
    );
  },
});

/** Each namespace's. */
export const usageOfNamespaces = defineCommand({
  meta: { name: "usage", description: "What each namespace has, and may have" },
  plugins: [strict],
  args: common,
  async run({ args }) {
    const answer = await ask(connect(args.data), args.workspace);
    const most = answer.namespace_limits;
    print(args.json, answer, () =>
      table(
        answer.namespaces.map((row) => ({
          namespace: row.namespace,
          size: share(row.size_bytes, most.size_bytes, shortSize),
          "files and directories": share(row.entry_count, most.entry_count),
          snapshots: share(row.snapshot_count, most.snapshot_count),
        })),
        "The workspace has no namespace yet; the first write, command or key makes one.",
      ),
    );
  },
});

function columns(has: number, most: number | null, show: (value: number) => string = String) {
  return { has: show(has), "may have": most === null ? "any" : show(most) };
}

function share(has: number, most: number | null, show: (value: number) => string = String): string {
  return most === null ? show(has) : `${show(has)} of ${show(most)}`;
}
