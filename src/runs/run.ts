import { z } from "zod";
import type { runs } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import { runNetwork, runFate } from "../protocol/sandboxd.ts";

/** A run as its row has it. What is JSON there is read by the schemas here. */
export type RunRow = typeof runs.$inferSelect;
export type RunStatus = RunRow["status"];

/** With the name of its namespace. */
export interface Run extends RunRow {
  readonly namespace: string;
}

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

export const stopOf = ({ stop }: RunRow): RunStop | null => runStop.nullable().parse(stop);
export const fateOf = ({ fate }: RunRow) => runFate.nullable().parse(fate);
export const networkOf = ({ network }: RunRow) => runNetwork.nullable().parse(network);
export const timingsOf = ({ timings }: RunRow): RunTimings => runTimings.parse(timings);

/** One text for a run that never was and for one that the caller may not know of. */
export function noRun(id: string): AppError {
  return new AppError("not_found", `There is no run ${JSON.stringify(id.slice(0, 100))} here.`);
}
