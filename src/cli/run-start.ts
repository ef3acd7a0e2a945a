import { defineCommand } from "citty";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { whenBack } from "./messages.ts";
import { jsonArgument, print, writeBytes } from "./output.ts";
import { outputOf } from "./run-output.ts";
import { requestOf } from "./run-request.ts";
import { runPath, runRow, type RunRow } from "./run-row.ts";
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
      "Start a run. One word after -- is a line for the shell, several are a program and its arguments; or give --agent. With --follow it exits with the command's code, 124 when it took too long, 125 when it could not be run, 130 when it was cancelled or Ctrl-C ended the watching; with --json besides, what it writes goes to stderr.",
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
    const json = await requestOf(args, words);
    const appliance = connect(args.data);
    const headers = {
      "x-workspace": await workspaceOf(appliance, args.workspace),
      "x-namespace": args.namespace,
    };
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
      // A result that is JSON has stdout to itself.
      await writeBytes(args.json === true ? process.stderr : process[stream], bytes);
    }
    const over = await whenBack(() => appliance.ask(runRow, runPath(made.run_id)));
    if (args.json === true) print(true, over, String);
    else terminal.info(`${over.run_id}: ${ended(over)}`);
    process.exitCode = exitCodeOf(over);
  },
});

/** "failed, exit code 3. It ran out of memory." */
function ended({ status, exit_code, error }: RunRow): string {
  const code = status === "failed" && exit_code !== null ? `, exit code ${exit_code}` : "";
  return `${status}${code}${error === null ? "" : `. ${error}`}`;
}

function exitCodeOf({ status, exit_code }: RunRow): number {
  if (status === "timed_out" || status === "error" || status === "cancelled") return EXIT[status];
  return exit_code ?? EXIT.error;
}
