import { defineCommand } from "citty";
import { z } from "zod";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { counted, jsonArgument, print, shortTime, table, writeBytes } from "./output.ts";
import { printable } from "./printable.ts";
import { commonArguments, dollars, idArgument, runRow, runPath, type RunRow } from "./run-row.ts";
import { input } from "./run-input.ts";
import { outputOf } from "./run-output.ts";
import { start } from "./run-start.ts";
import { diff, discard, merge } from "./run-work.ts";
import { strict } from "./strict.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

const list = defineCommand({
  meta: { name: "list", description: "A workspace's runs, newest first" },
  plugins: [strict],
  args: {
    namespace: {
      type: "positional",
      description: "Whose; of all namespaces unless given",
      required: false,
    },
    status: { type: "string", description: "Only these, with commas: running,failed", valueHint: "STATUS" },
    limit: { type: "string", description: "How many at most, up to 200", valueHint: "N", default: "50" },
    ...workspaceArgument,
    ...dataArgument,
    ...jsonArgument,
  },
  async run({ args }) {
    const appliance = connect(args.data);
    const headers = {
      "x-workspace": await workspaceOf(appliance, args.workspace),
      ...(args.namespace === undefined ? {} : { "x-namespace": args.namespace }),
    };
    const query = new URLSearchParams({
      limit: args.limit,
      ...(args.status === undefined ? {} : { status: args.status }),
    });
    const schema = z.object({ runs: z.array(runRow), next_cursor: z.string().nullable() });
    const answer = await appliance.ask(schema, `/v1/runs?${query.toString()}`, { headers });
    print(args.json, answer, () =>
      table(
        answer.runs.map((run) => ({
          run: run.run_id,
          namespace: run.namespace,
          created: shortTime(run.created_at),
          status: run.status,
          exit: run.exit_code === null ? "" : String(run.exit_code),
          spent: dollars(run.usage.llm.usd),
          what: run.label === null ? (run.agent?.kind ?? firstLine(run.command ?? "")) : printable(run.label),
        })),
        "There is no run; start one with: cofferdam run start NAMESPACE -- COMMAND",
      ),
    );
  },
});

const show = defineCommand({
  meta: { name: "show", description: "A run: how it stands, what it used, what it was refused" },
  plugins: [strict],
  args: { ...idArgument, ...commonArguments },
  async run({ args }) {
    const run = await connect(args.data).ask(runRow, runPath(args.run));
    print(args.json, run, () => described(run));
  },
});

const logs = defineCommand({
  meta: { name: "logs", description: "What a run has written, to stdout, byte for byte" },
  plugins: [strict],
  args: {
    ...idArgument,
    follow: { type: "boolean", alias: "f", description: "And what it writes from now on, until it is over" },
    ...dataArgument,
  },
  async run({ args }) {
    const output = outputOf(connect(args.data), args.run, { live: args.follow === true });
    for await (const { bytes } of output) await writeBytes(process.stdout, bytes);
  },
});

const cancel = defineCommand({
  meta: { name: "cancel", description: "Ask a run to end, and kill it if it has not within ten seconds" },
  plugins: [strict],
  args: { ...idArgument, ...commonArguments },
  async run({ args }) {
    const run = await connect(args.data).ask(runRow, `${runPath(args.run)}/cancel`, { method: "POST" });
    print(args.json, run, () =>
      run.finished_at === null ? `${run.run_id} is asked to end.` : `${run.run_id} is over: ${run.status}.`,
    );
  },
});

export const run = defineCommand({
  meta: { name: "run", description: "Runs: supervised commands and agents with a worktree of their own" },
  subCommands: { start, list, show, logs, input, cancel, diff, merge, discard },
});

const MAX_WHAT = 60;

function firstLine(command: string): string {
  const [first = ""] = command.split("\n");
  const line = printable(first);
  return line.length > MAX_WHAT ? `${line.slice(0, MAX_WHAT - 1)}…` : line;
}

function described(run: RunRow): string {
  const { llm, git, egress } = run.usage;
  const lines: (readonly [string, string | null])[] = [
    ["run", run.run_id],
    ["namespace", run.namespace],
    ["label", run.label],
    ["command", run.agent === null ? run.command : `${run.agent.kind}: ${run.agent.prompt}`],
    ["status", run.exit_code === null ? run.status : `${run.status}, exit code ${run.exit_code}`],
    ["error", run.error],
    ["created", run.created_at],
    ["started", run.started_at],
    ["finished", run.finished_at],
    ["worktree", `${run.worktree.state}, from ${run.worktree.snapshot_id ?? run.worktree.from}`],
    [
      "models",
      llm.requests === 0
        ? null
        : `${counted(llm.requests, "request")}, ${llm.input_tokens} tokens in, ${llm.output_tokens} out, ${dollars(llm.usd) || "$0"}`,
    ],
    ["git", git.fetches + git.pushes === 0 ? null : `${git.fetches} fetched, ${git.pushes} pushed`],
    [
      "egress",
      egress.connections === 0 ? null : `${counted(egress.connections, "connection")}, ${egress.bytes} bytes`,
    ],
    ["memory", run.usage.peak_memory_mb === null ? null : `${run.usage.peak_memory_mb} MiB at most`],
    ["cpu", run.usage.cpu_s === null ? null : `${run.usage.cpu_s} s`],
    [
      "usage",
      run.finished_at === null || run.usage_complete ? null : "not all is known yet: the gateway was away",
    ],
    ...run.denials.map(
      ({ kind, reason, count }) => ["denied", `${kind}: ${reason}, ${counted(count, "time")}`] as const,
    ),
  ];
  return lines
    .flatMap(([name, value]) => (value === null ? [] : [`${name.padEnd(10)} ${lined(value)}`]))
    .join("\n");
}

/** A command's lines below one another. */
function lined(text: string): string {
  return text
    .split("\n")
    .map(printable)
    .join(`\n${" ".repeat(11)}`);
}
