import { once } from "node:events";
import { createInterface } from "node:readline/promises";
import { createConsola } from "consola/basic";
import { AppError } from "../errors.ts";

/** What a person is told beside a command's result: on stderr, a line each, the program's name in front. */
export const terminal = createConsola({
  stdout: process.stderr,
  reporters: [{ log: ({ args }) => void process.stderr.write(`cofferdam: ${args.join(" ")}\n`) }],
});

/** Asks before what can't be taken back. Without a terminal to ask on, --yes says that the caller means it. */
export async function confirm(question: string, yes: boolean): Promise<void> {
  if (yes) return;
  if (!process.stdin.isTTY)
    throw new AppError(
      "invalid",
      "This wants a yes and has no terminal to ask for it; repeat it with --yes to say that you mean it.",
    );
  const reader = createInterface({ input: process.stdin, output: process.stderr });
  // Ctrl-C and Ctrl-D abort the question, a terminal that goes away only closes it.
  const aborted = () => "";
  const answered = reader.question(`${question} [y/N] `).catch(aborted);
  const reply = await Promise.race([answered, once(reader, "close").then(aborted)]);
  reader.close();
  if (!/^y(es)?$/i.test(reply.trim())) throw new AppError("conflict", "Nothing was changed.");
}

export const yesArgument = {
  yes: { type: "boolean", alias: "y", default: false, description: "Don't ask" },
} as const;
