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
  if (!(await terminal.prompt(question, { type: "confirm", initial: false })))
    throw new AppError("conflict", "Nothing was changed.");
}

export const yesArgument = {
  yes: { type: "boolean", alias: "y", default: false, description: "Don't ask" },
} as const;
