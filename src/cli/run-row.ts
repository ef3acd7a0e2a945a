import { z } from "zod";
import { dataArgument } from "./arguments.ts";
import { jsonArgument } from "./output.ts";

export const idArgument = {
  run: { type: "positional", description: "Its id, run-…", required: true },
} as const;

export const commonArguments = { ...dataArgument, ...jsonArgument };

/** As the api shows it; with --json all of it is passed on. */
export const runRow = z
  .object({
    run_id: z.string(),
    namespace: z.string(),
    status: z.string(),
    label: z.string().nullable(),
    exit_code: z.int().nullable(),
    error: z.string().nullable(),
    created_at: z.string(),
    started_at: z.string().nullable(),
    finished_at: z.string().nullable(),
    command: z.string().nullable(),
    agent: z.object({ kind: z.string(), prompt: z.string() }).nullable(),
    worktree: z.object({ from: z.string(), snapshot_id: z.string().optional(), state: z.string() }).loose(),
    usage: z
      .object({
        llm: z
          .object({
            requests: z.int(),
            input_tokens: z.int(),
            output_tokens: z.int(),
            usd: z.number(),
          })
          .loose(),
        git: z.object({ fetches: z.int(), pushes: z.int() }).loose(),
        egress: z.object({ connections: z.int(), bytes: z.int() }).loose(),
        peak_memory_mb: z.number().nullable(),
        cpu_s: z.number().nullable(),
      })
      .loose(),
    usage_complete: z.boolean(),
    denials: z.array(z.object({ kind: z.string(), reason: z.string(), count: z.int() }).loose()),
  })
  .loose();
export type RunRow = z.infer<typeof runRow>;

export function runPath(id: string): string {
  return `/v1/runs/${encodeURIComponent(id)}`;
}

export function dollars(usd: number): string {
  return usd === 0 ? "" : `$${usd < 0.01 ? usd.toFixed(6) : usd.toFixed(2)}`;
}
