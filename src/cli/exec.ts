import { defineCommand } from "citty";
import { operatorExecResult } from "../protocol/operator-exec.ts";
import { AppError } from "../errors.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { sentenceOf } from "./failure.ts";
import { jsonArgument, print, writeBytes } from "./output.ts";
import { shellLine } from "./shell-line.ts";
import { strictBeforeDashes } from "./strict.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";
import { terminal } from "./terminal.ts";

/** As timeout(1) and docker(1) have them: a command's own exit code must not be taken for these. */
const TIMED_OUT = 124;
const NOT_RUN = 125;

export const exec = defineCommand({
  meta: {
    name: "exec",
    description:
      "Run a command in a namespace. One word after -- is a line for the shell, several are a program and its arguments. Exits with the command's code, 124 when it took too long, 125 when it could not be run.",
  },
  plugins: [strictBeforeDashes],
  args: {
    namespace: { type: "positional", description: "Made when it is not there yet", required: true },
    stdin: { type: "boolean", alias: "i", description: "Give it this standard input, at most 1 MiB" },
    ...workspaceArgument,
    ...dataArgument,
    ...jsonArgument,
  },
  async run({ args, rawArgs }) {
    const words = rawArgs.includes("--") ? rawArgs.slice(rawArgs.indexOf("--") + 1) : [];
    if (words.length === 0) {
      throw new AppError(
        "bad_input",
        `Put the command after --, as: cofferdam exec ${args.namespace} -- 'ls workspace'`,
      );
    }
    const command = shellLine(words);
    process.exitCode = await run(args, command).catch((error: unknown) => {
      terminal.error(sentenceOf(error));
      return error instanceof AppError && error.code === "timeout" ? TIMED_OUT : NOT_RUN;
    });
  },
});

interface ExecArgs {
  readonly namespace: string;
  readonly data: string;
  readonly stdin?: boolean | undefined;
  readonly workspace?: string | undefined;
  readonly json?: boolean | undefined;
}

async function run(args: ExecArgs, command: string): Promise<number> {
  const appliance = connect(args.data);
  const headers = {
    "x-workspace": await workspaceOf(appliance, args.workspace),
    "x-namespace": args.namespace,
  };
  const stdin = args.stdin === true ? { stdin_base64: (await Bun.stdin.bytes()).toBase64() } : {};
  const call = { method: "POST", headers, json: { command, ...stdin } } as const;
  const result = await appliance.ask(operatorExecResult, "/admin/exec", call);
  const [stdout, stderr] = [
    Uint8Array.fromBase64(result.stdout_base64),
    Uint8Array.fromBase64(result.stderr_base64),
  ];
  if (args.json === true) {
    const { stdout_base64: _, stderr_base64: __, ...rest } = result;
    const text = { stdout: Buffer.from(stdout).toString(), stderr: Buffer.from(stderr).toString() };
    print(true, { ...rest, ...text }, String);
    return result.exit_code;
  }
  await writeBytes(process.stdout, stdout);
  await writeBytes(process.stderr, stderr);
  if (result.stdout_truncated) terminal.warn("stdout was longer and is cut here.");
  if (result.stderr_truncated) terminal.warn("stderr was longer and is cut here.");
  if (result.oom) terminal.warn("the namespace ran out of memory, [exec] memory_mb.");
  return result.exit_code;
}
