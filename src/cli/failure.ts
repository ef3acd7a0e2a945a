import { AppError, type ErrorCode } from "../errors.ts";

/** 2: the command line or the input is wrong; 3: not able now; 1: anything else. docs/operations.md lists them. */
const WRONG_INPUT: ReadonlySet<ErrorCode> = new Set(["bad_input", "invalid", "too_large", "not_text"]);
const NOT_NOW: ReadonlySet<ErrorCode> = new Set(["unavailable", "busy"]);
const CITTY = /^E/;

export function exitCodeOf(error: unknown): number {
  if (!(error instanceof AppError)) return isUsage(error) ? 2 : 1;
  if (WRONG_INPUT.has(error.code)) return 2;
  return NOT_NOW.has(error.code) ? 3 : 1;
}

/** One line, with what to do; a stack only for what nobody foresaw. */
export function sentenceOf(error: unknown): string {
  if (error instanceof AppError) return error.message;
  if (isUsage(error)) return `${Bun.stripANSI(error.message)} See: cofferdam --help`;
  if (error instanceof Error) return error.stack ?? error.message;
  return String(error);
}

/** citty's own error has no class that it exports. */
function isUsage(error: unknown): error is Error {
  return (
    error instanceof Error &&
    error.name === "CLIError" &&
    CITTY.test(String((error as { code?: unknown }).code))
  );
}
