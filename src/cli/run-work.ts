import { defineCommand } from "citty";
import { z } from "zod";
import { AppError } from "../errors.ts";
import { connect, Refusal } from "./appliance.ts";
import { counted, print, table } from "./output.ts";
import { printable } from "./printable.ts";
import { commonArguments, idArgument, runPath } from "./run-row.ts";
import { strict } from "./strict.ts";
import { confirm, yesArgument } from "./terminal.ts";

const change = z
  .object({
    path: z.string(),
    change: z.string(),
    from: z.string().optional(),
    binary: z.boolean(),
    patch: z.string().nullable(),
  })
  .loose();
const diffAnswer = z.object({
  base: z.string().nullable(),
  changes: z.array(change),
  truncated: z.boolean(),
});

export const diff = defineCommand({
  meta: { name: "diff", description: "What a run has changed in its worktree, as a patch" },
  plugins: [strict],
  args: { ...idArgument, ...commonArguments },
  async run({ args }) {
    const answer = await connect(args.data).ask(diffAnswer, `${runPath(args.run)}/diff`);
    print(args.json, answer, () => {
      const shown = answer.changes.map(
        ({ path, change, from, patch }) =>
          patch?.trimEnd() ?? `${change}: ${from === undefined ? path : `${from} -> ${path}`}`,
      );
      if (answer.truncated) shown.push("There is more, which does not fit.");
      if (shown.length === 0) return "Nothing has changed.";
      const text = shown.join("\n");
      // For a person; for patch(1) it is as it is.
      return process.stdout.isTTY ? text.split("\n").map(visible).join("\n") : text;
    });
  },
});

const visible = (line: string): string => line.split("\t").map(printable).join("\t");

const notMerged = z
  .object({
    conflicts: z.array(z.object({ path: z.string(), run: z.string(), namespace: z.string() }).loose()),
    truncated: z.boolean(),
  })
  .loose();

export const merge = defineCommand({
  meta: {
    name: "merge",
    description:
      "Put what a run has changed into its namespace, all or nothing. Exits with 1 and lists the conflicts when there are any.",
  },
  plugins: [strict],
  args: {
    ...idArgument,
    "on-conflict": {
      type: "string",
      description: "What counts where both have changed a path: fail, run or namespace",
      valueHint: "WHAT",
      default: "fail",
    },
    ...commonArguments,
  },
  async run({ args }) {
    const merged = z.object({ files: z.int() }).loose();
    const call = { method: "POST", json: { on_conflict: args["on-conflict"] } } as const;
    try {
      const answer = await connect(args.data).ask(merged, `${runPath(args.run)}/merge`, call);
      print(args.json, answer, () => `${args.run} is merged: ${counted(answer.files, "file")}.`);
    } catch (error) {
      const { data: answer } = notMerged.safeParse(error instanceof Refusal ? error.answer : null);
      if (answer === undefined) throw error;
      print(args.json, answer, () => listed(answer));
      throw new AppError(
        "conflict",
        "Nothing was merged: both the run and the namespace have changed these paths. Say whose side counts: --on-conflict run, or --on-conflict namespace.",
        { cause: error },
      );
    }
  },
});

function listed({ conflicts, truncated }: z.infer<typeof notMerged>): string {
  const rows = conflicts.map(({ path, run, namespace }) => ({ path: printable(path), run, namespace }));
  return `${table(rows, "")}${truncated ? "\nThere are more, which are not named." : ""}`;
}

export const discard = defineCommand({
  meta: { name: "discard", description: "Throw away what a run has changed" },
  plugins: [strict],
  args: { ...idArgument, ...yesArgument, ...commonArguments },
  async run({ args }) {
    await confirm(`Throw away what ${args.run} has left?`, args.yes);
    const answer = await connect(args.data).ask(
      z.object({ discarded: z.string() }),
      `${runPath(args.run)}/discard`,
      { method: "POST" },
    );
    print(args.json, answer, () => `${answer.discarded} is discarded.`);
  },
});
