import { AppError, type ErrorCode } from "../errors.ts";

/** 2: the command line or the input is wrong; 3: not able now; 1: anything else. docs/operations.md lists them. */
const WRONG_INPUT: ReadonlySet<ErrorCode> = new Set(["bad_input", "invalid", "too_large", "not_text"]);
const NOT_NOW: ReadonlySet<ErrorCode> = new Set(["unavailable", "busy"]);

export function exitCodeOf(error: unknown): number {
  if (!(error instanceof AppError)) return 1;
  if (WRONG_INPUT.has(error.code)) return 2;
  return NOT_NOW.has(error.code) ? 3 : 1;
}

/** One line, with what to do; a stack only for what nobody foresaw. */
export function sentenceOf(error: unknown): string {
  if (error instanceof AppError) return error.message;
  if (error instanceof Error) return error.stack ?? error.message;
  return String(error);
}

/** The word or option that the command line lacks, if that is the error. citty's own has no class that it exports. */
export function missingWord(error: unknown): string | null {
  if (!(error instanceof Error) || error.name !== "CLIError") return null;
  return /^Missing required (?:positional )?argument: (\S+)$/.exec(error.message)?.[1] ?? null;
}
