import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { z } from "zod";
import { runFate, runMake, runNetwork, type RunFate } from "../../protocol/sandboxd.ts";
import type { RunNames } from "./names.ts";

/**
 * What a restarted sandboxd must know of a run that lived on without it. Written before the step that it tells of. No
 * fsync: it lies in /run, and what it tells of ends with the boot too.
 */
const recordSchema = z.strictObject({
  /** Its shim. */
  process: z.strictObject({ pid: z.int().min(1), startTime: z.int().min(0) }),
  network: runNetwork,
  made_of: runMake,
  /** When its wall clock stops, in milliseconds since the boot; null before it is admitted. */
  deadline: z.number().nullable(),
  /** Why its sandbox is being killed, if it is. */
  ending: z.enum(["stopped", "timeout"]).nullable(),
});
export type RunRecord = z.infer<typeof recordSchema>;

export function writeRecord({ record }: RunNames, content: RunRecord): void {
  write(record, content);
}

/** undefined when there is none that can be trusted: the boot was not finished. */
export function readRecord({ record }: RunNames): RunRecord | undefined {
  return recordSchema.safeParse(read(record)).data;
}

export function writeFate({ fate }: RunNames, content: RunFate): void {
  write(fate, content);
}

export function readFate({ fate }: RunNames): RunFate | undefined {
  return runFate.safeParse(read(fate)).data;
}

function write(file: string, content: object): void {
  const draft = `${file}.new`;
  writeFileSync(draft, JSON.stringify(content), { mode: 0o600 });
  renameSync(draft, file);
}

function read(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
