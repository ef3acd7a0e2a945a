import type { RunFate } from "../protocol/sandboxd.ts";
import type { RunLimits } from "./grants.ts";
import type { RunRow, RunStatus, RunStop } from "./run.ts";
import { isBudgetSpent, type RunDenials } from "./usage.ts";

/** How a run ended, as its caller is told. */
export interface Outcome {
  readonly status: Exclude<RunStatus, "queued" | "preparing" | "running">;
  readonly exitCode: number | null;
  readonly error: string | null;
}

/** As a shell has it for a command that was killed. */
const KILLED = 137;

export interface OutcomeParts {
  readonly fate: RunFate;
  /** Why it was being stopped, if it was. */
  readonly stop: RunStop | null;
  readonly deadline: RunRow["deadline"];
  readonly limits: RunLimits;
  readonly denials: RunDenials;
}

/** What came first counts: a stop that was asked for, then the clock, then how the command ended by itself. */
export function outcomeOf({ fate, stop, deadline, limits, denials }: OutcomeParts): Outcome {
  const exitCode = fate.exit_code;
  if (stop !== null) return { status: stop.status, exitCode, error: stop.error };
  // Before the clock kills it, it is asked to end; what it made of that is no success.
  const late = deadline !== null && fate.ended_at >= deadline;
  if (fate.cause === "timeout" || (late && fate.cause !== "lost")) {
    return { status: "timed_out", exitCode, error: `It took longer than its ${limits.timeout_s} s.` };
  }
  switch (fate.cause) {
    case "oom":
      return {
        status: "failed",
        exitCode: exitCode ?? KILLED,
        error: `It ran out of its ${limits.memory_mb} MiB of memory.`,
      };
    case "lost":
      return { status: "error", exitCode, error: fate.fault ?? "Its sandbox was lost." };
    case "stopped":
      return { status: "error", exitCode, error: "Its sandbox was stopped on the host." };
    case "exit":
      break;
  }
  if (exitCode === null) {
    return { status: "error", exitCode, error: "Its sandbox ended without saying how the command did." };
  }
  if (exitCode === 0) return { status: "succeeded", exitCode, error: null };
  if (isBudgetSpent(denials)) {
    const error = "A request to a model was refused since its budget was spent, and the command failed.";
    return { status: "budget_exhausted", exitCode, error };
  }
  return { status: "failed", exitCode, error: null };
}
