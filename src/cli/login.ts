import { defineCommand } from "citty";
import { z } from "zod";
import { connect, type Appliance } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print, shortTime, table } from "./output.ts";
import { strict } from "./strict.ts";
import { confirm, terminal, yesArgument } from "./terminal.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

const login = z.object({
  login_id: z.string(),
  client: z.string(),
  address: z.string(),
  created_at: z.string(),
  expires_at: z.string(),
  binding: z.string(),
});

const codeArgument = {
  code: { type: "positional", description: "What the program shows, as BCDF-GHJK", required: true },
} as const;
const common = { ...workspaceArgument, ...dataArgument, ...jsonArgument };

const list = defineCommand({
  meta: { name: "list", description: "Who waits for an answer; the codes are known to who started them" },
  plugins: [strict],
  args: { ...dataArgument, ...jsonArgument },
  async run({ args }) {
    const answer = await connect(args.data).ask(z.object({ logins: z.array(login) }), "/admin/logins");
    print(args.json, answer, () =>
      table(
        answer.logins.map((row) => ({
          login: row.login_id,
          address: row.address,
          program: row.client,
          started: shortTime(row.created_at),
          ends: shortTime(row.expires_at),
        })),
        "Nobody waits for an answer.",
      ),
    );
  },
});

const approve = defineCommand({
  meta: { name: "approve", description: "Let a program sign in: it gets a key" },
  plugins: [strict],
  args: {
    ...codeArgument,
    namespace: { type: "string", description: "Lock its key to this namespace", valueHint: "NAME" },
    ...yesArgument,
    ...common,
  },
  async run({ args }) {
    const { appliance, workspace, path, shown } = await look(args, args.json === true && args.yes);
    const what =
      args.namespace === undefined
        ? `any namespace of the workspace ${workspace}`
        : `the namespace "${args.namespace}" of the workspace ${workspace}`;
    await confirm(`Does it show the code ${args.code}, and may it have a key for ${what}?`, args.yes);
    const answer = await appliance.ask(
      z.object({ approved: z.string(), workspace_id: z.string(), namespace: z.string().nullable() }),
      `${path}/approve`,
      { method: "POST", json: { binding: shown.binding, namespace: args.namespace ?? null } },
    );
    print(args.json, answer, () => `${answer.approved} is approved: it gets a key for ${what}.`);
  },
});

const deny = defineCommand({
  meta: { name: "deny", description: "Tell a program that it may not sign in" },
  plugins: [strict],
  args: { ...codeArgument, ...common },
  async run({ args }) {
    const { appliance, path, shown } = await look(args, args.json === true);
    const answer = await appliance.ask(z.object({ denied: z.string() }), `${path}/deny`, {
      method: "POST",
      json: { binding: shown.binding },
    });
    print(args.json, answer, () => `${answer.denied} is denied.`);
  },
});

interface Look {
  readonly appliance: Appliance;
  readonly workspace: string;
  readonly path: string;
  readonly shown: z.infer<typeof login>;
}

/** Fetches what the code stands for and shows it, unless nobody reads along: that is what the answer will be bound to. */
async function look(
  args: { readonly code: string; readonly data: string; readonly workspace?: string | undefined },
  quiet: boolean,
): Promise<Look> {
  const appliance = connect(args.data);
  const workspace = await workspaceOf(appliance, args.workspace);
  const path = `/v1/workspaces/${workspace}/logins/${encodeURIComponent(args.code)}`;
  const shown = await appliance.ask(login, path);
  const since = shown.created_at.slice(0, 19).replace("T", " ");
  if (!quiet)
    terminal.info(`${shown.login_id}: "${shown.client}" from ${shown.address}, asked at ${since} UTC`);
  return { appliance, workspace, path, shown };
}

export const loginCommand = defineCommand({
  meta: { name: "login", description: "Programs that sign in: see who asks, approve, deny" },
  subCommands: { list, approve, deny },
});
