import { defineCommand } from "citty";
import { z } from "zod";
import { AppError } from "../errors.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print, shortTime, table } from "./output.ts";
import { strict } from "./strict.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

const credentialRow = z
  .object({
    credential_id: z.string(),
    name: z.string(),
    kind: z.string(),
    namespaces: z.array(z.string()).nullable(),
    created_at: z.string(),
    last_used_at: z.string().nullable(),
  })
  .loose();

const common = { ...workspaceArgument, ...dataArgument, ...jsonArgument };

const create = defineCommand({
  meta: { name: "create", description: "Keep a secret for runs; it is read from stdin and never shown" },
  plugins: [strict],
  args: {
    name: { type: "positional", description: "What runs call it by", required: true },
    kind: {
      type: "string",
      description: "anthropic, openai, github-app or git-token",
      required: true,
      valueHint: "KIND",
    },
    "base-url": { type: "string", description: "Of another server for models", valueHint: "URL" },
    "git-url": {
      type: "string",
      description: "Of the git server, such as https://github.com",
      valueHint: "URL",
    },
    "api-url": {
      type: "string",
      description: "Of GitHub's API, when it is not github.com",
      valueHint: "URL",
    },
    "app-id": {
      type: "string",
      description: "Of a GitHub App, whose private key is on stdin",
      valueHint: "ID",
    },
    username: { type: "string", description: "That the git token goes with", valueHint: "NAME" },
    namespaces: {
      type: "string",
      description: "Whose runs may use it, with commas; all, unless given",
      valueHint: "NAMES",
    },
    ...common,
  },
  async run({ args }) {
    const appliance = connect(args.data);
    const workspace = await workspaceOf(appliance, args.workspace);
    const given = {
      base_url: args["base-url"],
      git_url: args["git-url"],
      api_url: args["api-url"],
      app_id: args["app-id"],
      username: args.username,
    };
    const made = await appliance.ask(credentialRow, `/v1/workspaces/${workspace}/credentials`, {
      method: "POST",
      json: {
        name: args.name,
        kind: args.kind,
        ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
        [args.kind === "github-app" ? "private_key" : "secret"]: await secretFromStdin(),
        namespaces: args.namespaces?.split(",").map((name) => name.trim()) ?? null,
      },
    });
    print(args.json, made, () => made.credential_id);
  },
});

/** Never an argument: those are in every list of processes, and in the shell's history. */
async function secretFromStdin(): Promise<string> {
  if (process.stdin.isTTY) process.stderr.write("The secret, then Ctrl-D:\n");
  const secret = (await Bun.stdin.text()).trim();
  if (secret === "") throw new AppError("bad_input", "There is no secret on stdin; use: … < FILE");
  return secret;
}

const list = defineCommand({
  meta: { name: "list", description: "What runs may use, without the secrets" },
  plugins: [strict],
  args: common,
  async run({ args }) {
    const appliance = connect(args.data);
    const workspace = await workspaceOf(appliance, args.workspace);
    const answer = await appliance.ask(
      z.object({ credentials: z.array(credentialRow) }),
      `/v1/workspaces/${workspace}/credentials`,
    );
    print(args.json, answer, () =>
      table(
        answer.credentials.map((one) => ({
          credential: one.credential_id,
          name: one.name,
          kind: one.kind,
          namespaces: one.namespaces?.join(",") ?? "any",
          created: shortTime(one.created_at),
          "last used": shortTime(one.last_used_at),
        })),
        "The workspace has no credential; make one with: cofferdam credential create NAME --kind KIND < FILE",
      ),
    );
  },
});

const remove = defineCommand({
  meta: { name: "delete", description: "Forget a secret; runs that use it lose it at once" },
  plugins: [strict],
  args: {
    id: { type: "positional", description: "Its id, cred-…", required: true, valueHint: "CREDENTIAL" },
    ...common,
  },
  async run({ args }) {
    const appliance = connect(args.data);
    const workspace = await workspaceOf(appliance, args.workspace);
    const answer = await appliance.ask(
      z.object({ deleted: z.string() }),
      `/v1/workspaces/${workspace}/credentials/${encodeURIComponent(args.id)}`,
      { method: "DELETE" },
    );
    print(args.json, answer, () => `${answer.deleted} is deleted.`);
  },
});

export const credential = defineCommand({
  meta: { name: "credential", description: "Secrets that runs use without holding them: models' and git's" },
  subCommands: { create, list, delete: remove },
});
