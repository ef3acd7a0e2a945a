import { defineCommand } from "citty";
import { z } from "zod";
import { AppError } from "../errors.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { whenBack } from "./messages.ts";
import { jsonArgument, print, writeBytes } from "./output.ts";
import { outputOf } from "./run-output.ts";
import { runPath, runRow, type RunRow } from "./run-row.ts";
import { shellLine } from "./shell-line.ts";
import { strictBeforeDashes } from "./strict.ts";
import { terminal } from "./terminal.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

/** What a shell has for what was killed by the clock, and for what could not be run. */
const EXIT = { timed_out: 124, error: 125, cancelled: 130 } as const;

const text = (description: string, valueHint: string) =>
  ({ type: "string", description, valueHint }) as const;

export const start = defineCommand({
  meta: {
    name: "start",
    description:
      "Start a run. One word after -- is a line for the shell, several are a program and its arguments; or give --agent. With --follow it exits with the command's code, 124 when it took too long, 125 when it could not be run, 130 when it was cancelled.",
  },
  plugins: [strictBeforeDashes],
  args: {
    namespace: { type: "positional", description: "Whose files it works on", required: true },
    agent: text("claude-code, codex or opencode, with --prompt", "KIND"),
    prompt: text("What the agent shall do", "TEXT"),
    request: text("The request's other fields, as JSON in a file; - is stdin", "FILE"),
    from: text("namespace (the default), empty, or a snapshot's id", "SOURCE"),
    label: text("What people call it", "TEXT"),
    llm: text("The credential for models", "NAME"),
    models: text("Which of them, with commas", "NAMES"),
    "max-usd": text("What they may cost", "DOLLARS"),
    timeout: text("Seconds that it may take", "SECONDS"),
    "memory-mb": text("Memory that it may use", "MIB"),
    "on-success": text("keep, merge or discard its files", "WHAT"),
    follow: { type: "boolean", alias: "f", description: "Show what it writes until it is over" },
    ...workspaceArgument,
    ...dataArgument,
    ...jsonArgument,
  },
  async run({ args, rawArgs }) {
    const words = rawArgs.includes("--") ? rawArgs.slice(rawArgs.indexOf("--") + 1) : [];
    const appliance = connect(args.data);
    const headers = {
      "x-workspace": await workspaceOf(appliance, args.workspace),
      "x-namespace": args.namespace,
    };
    const json = { ...(await requestIn(args.request)), ...requestOf(args, words) };
    const made = await appliance.ask(runRow, "/v1/runs", { method: "POST", headers, json });
    if (args.follow !== true) return print(args.json, made, () => made.run_id);
    terminal.info(`${made.run_id} is started.`);
    process.once("SIGINT", () => {
      terminal.info(
        `${made.run_id} goes on; see it with: cofferdam run logs --follow ${made.run_id}, or end it with: cofferdam run cancel ${made.run_id}`,
      );
      process.exit(EXIT.cancelled);
    });
    for await (const { stream, bytes } of outputOf(appliance, made.run_id, { live: true, reached: true })) {
      await writeBytes(process[stream], bytes);
    }
    const over = await whenBack(() => appliance.ask(runRow, runPath(made.run_id)));
    if (args.json === true) print(true, over, String);
    else
      terminal.info(`${over.run_id}: ${over.error === null ? over.status : `${over.status}. ${over.error}`}`);
    process.exitCode = exitCodeOf(over);
  },
});

interface StartArgs {
  readonly agent?: string | undefined;
  readonly prompt?: string | undefined;
  readonly from?: string | undefined;
  readonly label?: string | undefined;
  readonly llm?: string | undefined;
  readonly models?: string | undefined;
  readonly "max-usd"?: string | undefined;
  readonly timeout?: string | undefined;
  readonly "memory-mb"?: string | undefined;
  readonly "on-success"?: string | undefined;
}

/** Only what was said: the rest is for the api to fill in. */
function requestOf(args: StartArgs, words: readonly string[]): Record<string, unknown> {
  const limits = given({
    timeout_s: number("timeout", args.timeout),
    memory_mb: number("memory-mb", args["memory-mb"]),
  });
  const llm = given({
    credential: args.llm,
    models: args.models?.split(",").map((name) => name.trim()),
    max_usd: number("max-usd", args["max-usd"]),
  });
  return given({
    command: words.length === 0 ? undefined : shellLine(words),
    agent: args.agent === undefined ? undefined : { kind: args.agent, prompt: args.prompt ?? "" },
    worktree: sourceOf(args.from),
    label: args.label,
    llm: Object.keys(llm).length === 0 ? undefined : llm,
    limits: Object.keys(limits).length === 0 ? undefined : limits,
    on_success: args["on-success"],
  });
}

function sourceOf(from: string | undefined): Record<string, unknown> | undefined {
  if (from === undefined) return undefined;
  return from.startsWith("snap-") ? { from: "snapshot", snapshot_id: from } : { from };
}

function given(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

function number(option: string, value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const parsed = Number(value);
  if (Number.isFinite(parsed) && value.trim() !== "") return parsed;
  throw new AppError("bad_input", `--${option} wants a number, not ${JSON.stringify(value)}.`);
}

async function requestIn(file: string | undefined): Promise<Record<string, unknown>> {
  if (file === undefined) return {};
  const source = file === "-" ? Bun.stdin : Bun.file(file);
  try {
    return z.record(z.string(), z.unknown()).parse(await source.json());
  } catch (error) {
    throw new AppError("bad_input", `${file} has to be a JSON object: see docs/runs.md.`, { cause: error });
  }
}

function exitCodeOf({ status, exit_code }: RunRow): number {
  if (status === "timed_out" || status === "error" || status === "cancelled") return EXIT[status];
  return exit_code ?? EXIT.error;
}
