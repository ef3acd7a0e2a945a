import { readFileSync } from "node:fs";
import { defineCommand } from "citty";
import { z } from "zod";
import { AppError, codeOf } from "../errors.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print } from "./output.ts";
import { strict } from "./strict.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

const answer = z.record(z.string(), z.unknown());

export const policyOfWorkspace = defineCommand({
  meta: { name: "policy", description: "What a workspace's runs may be at most: shown, or set from a file" },
  plugins: [strict],
  args: {
    file: {
      type: "positional",
      description: "JSON to set it to, - for stdin; shown, unless given",
      required: false,
      valueHint: "FILE",
    },
    ...workspaceArgument,
    ...dataArgument,
    ...jsonArgument,
  },
  async run({ args }) {
    const appliance = connect(args.data);
    const path = `/v1/workspaces/${await workspaceOf(appliance, args.workspace)}/policy`;
    const policy =
      args.file === undefined
        ? await appliance.ask(answer, path)
        : await appliance.ask(answer, path, { method: "PUT", json: await readPolicy(args.file) });
    print(args.json, policy, () =>
      Object.entries(policy)
        .map(([name, value]) => `${name} = ${value === null ? "no ceiling" : JSON.stringify(value)}`)
        .join("\n"),
    );
  },
});

async function readPolicy(file: string): Promise<unknown> {
  const text = file === "-" ? await Bun.stdin.text() : textOf(file);
  try {
    return JSON.parse(text);
  } catch {
    throw new AppError("bad_input", `${file} is not JSON.`);
  }
}

function textOf(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw new AppError("bad_input", `${file} can't be read (${codeOf(error) ?? String(error)}).`, {
      cause: error,
    });
  }
}
