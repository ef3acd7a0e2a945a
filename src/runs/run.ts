import { z } from "zod";
import type { runs } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import { snapshotId } from "../ids.ts";
import { runFate, runNetwork } from "../protocol/sandboxd.ts";
import { runGrants, runLimits, type RunGrants, type RunLimits } from "./grants.ts";
import { runDenials, runUsage, type Account } from "./usage.ts";

/** A run as its row has it. What is JSON there is read by the schemas here. */
export type RunRow = typeof runs.$inferSelect;
export type RunStatus = RunRow["status"];

/** With the name of its namespace. */
export interface Run extends RunRow {
  readonly namespace: string;
}

/**
 * What of a request is kept and shown. What its environment and stdin hold, and the whole of a long command or prompt, is
 * kept sealed for as long as it is needed: given.ts.
 */
export const runSpec = z.strictObject({
  /** Of this and of a prompt, the beginning. */
  command: z.string().nullable(),
  agent: z
    .strictObject({ kind: z.enum(["claude-code", "codex", "opencode"]), prompt: z.string() })
    .nullable(),
  /** Of the whole command or prompt. */
  text_sha256: z.string(),
  /** "none": /dev/null; "text": the request's; "open": fed by calls. */
  stdin: z.enum(["none", "text", "open"]),
  /** The variables' names. */
  env: z.array(z.string()),
  worktree: z.discriminatedUnion("from", [
    z.strictObject({ from: z.literal("namespace") }),
    z.strictObject({ from: z.literal("snapshot"), snapshot_id: snapshotId.schema }),
    z.strictObject({ from: z.literal("empty") }),
  ]),
  on_success: z.enum(["keep", "merge", "discard"]),
});
export type RunSpec = z.infer<typeof runSpec>;

export const RUN_STATUSES = [
  "queued",
  "preparing",
  "running",
  "succeeded",
  "failed",
  "cancelled",
  "timed_out",
  "budget_exhausted",
  "error",
] as const satisfies readonly RunStatus[];

const LIVE: ReadonlySet<RunStatus> = new Set(["queued", "preparing", "running"]);

export function isOver({ status }: Pick<RunRow, "status">): boolean {
  return !LIVE.has(status);
}

/** Why a run is being stopped, and what that makes of it. */
export const runStop = z.strictObject({
  status: z.enum(["cancelled", "failed", "error"]),
  /** For a person; null when the status says it all. */
  error: z.string().nullable(),
});
export type RunStop = z.infer<typeof runStop>;

/** What the steps of its life took, in milliseconds; of those that it has come to. */
export const runTimings = z.record(z.string(), z.int());
export type RunTimings = z.infer<typeof runTimings>;

export const specOf = ({ request }: RunRow): RunSpec => runSpec.parse(request);
export const grantsOf = ({ grants }: RunRow): RunGrants => runGrants.parse(grants);
export const limitsOf = ({ limits }: RunRow): RunLimits => runLimits.parse(limits);
export const accountOf = ({ usage, denials }: RunRow): Account => ({
  usage: runUsage.parse(usage),
  denials: runDenials.parse(denials),
});
export const stopOf = ({ stop }: RunRow): RunStop | null => runStop.nullable().parse(stop);
export const fateOf = ({ fate }: RunRow) => runFate.nullable().parse(fate);
export const networkOf = ({ network }: RunRow) => runNetwork.nullable().parse(network);
export const timingsOf = ({ timings }: RunRow): RunTimings => runTimings.parse(timings);

/** One text for a run that never was and for one that the caller may not know of. */
export function noRun(id: string): AppError {
  return new AppError("not_found", `There is no run ${JSON.stringify(id.slice(0, 100))} here.`);
}
