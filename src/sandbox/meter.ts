import { AppError, type ErrorCode } from "../errors.ts";

/** How a command ended; all but `refused` had begun, or may have. */
export type ExecOutcome =
  | "zero"
  | "nonzero"
  | "out_of_memory"
  | "timeout"
  | "hung_up"
  | "no_space"
  | "lost"
  | "refused"
  | "failed";

/** Told of what commands do. */
export interface ExecMeter {
  /** A command got its turn after so long. */
  waited(seconds: number): void;
  /** A namespace got a sandbox: a spare one, or one that was booted for it. */
  opened(source: "pool" | "boot", seconds: number): void;
  /** `seconds` that it ran; null when there is no telling. */
  ended(outcome: ExecOutcome, seconds: number | null): void;
}

export const unmetered: ExecMeter = { waited() {}, opened() {}, ended() {} };

const OUTCOMES: Partial<Record<ErrorCode, ExecOutcome>> = {
  timeout: "timeout",
  no_space: "no_space",
  sandbox_lost: "lost",
  busy: "refused",
  unavailable: "refused",
};

/** `signal` is the caller's. */
export function outcomeOf(error: unknown, signal: AbortSignal | undefined): ExecOutcome {
  if (signal?.aborted === true) return "hung_up";
  return (error instanceof AppError ? OUTCOMES[error.code] : undefined) ?? "failed";
}
