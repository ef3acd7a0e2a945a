import { defineCommand } from "citty";
import { z } from "zod";
import { rotateMaster } from "./key-rotate-master.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print, shortTime, table } from "./output.ts";
import { strict } from "./strict.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

const keyRow = z.object({
  key_id: z.string(),
  name: z.string(),
  prefix: z.string(),
  scope: z.string(),
  namespace: z.string().nullable(),
  created_at: z.string(),
  last_used_at: z.string().nullable(),
});

const common = { ...workspaceArgument, ...dataArgument, ...jsonArgument };

const create = defineCommand({
  meta: { name: "create", description: "Make a key; it is shown this once" },
  plugins: [strict],
  args: {
    name: { type: "positional", description: "What people call it", required: true },
    namespace: { type: "string", description: "Lock it to this namespace", valueHint: "NAME" },
    admin: { type: "boolean", description: "For keys and namespaces instead of files and commands" },
    ...common,
  },
  async run({ args }) {
    const appliance = connect(args.data);
    const workspace = await workspaceOf(appliance, args.workspace);
    const made = await appliance.ask(
      keyRow.extend({ api_key: z.string() }),
      `/v1/workspaces/${workspace}/keys`,
      {
        method: "POST",
        json: { name: args.name, namespace: args.namespace ?? null, admin: args.admin ?? false },
      },
    );
    // The key alone on stdout, so that it can be piped to where it is kept.
    print(args.json, made, () => made.api_key);
    if (args.json !== true)
      process.stderr.write(`${made.key_id}: keep the key above, it is not shown again.\n`);
  },
});

const list = defineCommand({
  meta: { name: "list", description: "The keys that work" },
  plugins: [strict],
  args: common,
  async run({ args }) {
    const appliance = connect(args.data);
    const workspace = await workspaceOf(appliance, args.workspace);
    const answer = await appliance.ask(
      z.object({ keys: z.array(keyRow) }),
      `/v1/workspaces/${workspace}/keys`,
    );
    print(args.json, answer, () =>
      table(
        answer.keys.map((key) => ({
          key: key.key_id,
          name: key.name,
          scope: key.scope,
          namespace: key.namespace ?? (key.scope === "admin" ? "-" : "any"),
          prefix: key.prefix,
          created: shortTime(key.created_at),
          "last used": shortTime(key.last_used_at),
        })),
        "The workspace has no key; make one with: cofferdam key create NAME",
      ),
    );
  },
});

const revoke = defineCommand({
  meta: { name: "revoke", description: "End a key at once, and the calls that it has in flight" },
  plugins: [strict],
  args: {
    id: { type: "positional", description: "Its id, key-…", required: true, valueHint: "KEY" },
    ...common,
  },
  async run({ args }) {
    const appliance = connect(args.data);
    const workspace = await workspaceOf(appliance, args.workspace);
    const answer = await appliance.ask(
      z.object({ revoked: z.string() }),
      `/v1/workspaces/${workspace}/keys/${encodeURIComponent(args.id)}`,
      { method: "DELETE" },
    );
    print(args.json, answer, () => `${answer.revoked} is revoked.`);
  },
});

export const key = defineCommand({
  meta: { name: "key", description: "Keys: admin, for any namespace, or locked to one" },
  subCommands: { create, list, revoke, "rotate-master": rotateMaster },
});
