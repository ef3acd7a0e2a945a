import { limitsOf, accountOf, specOf, timingsOf, type Run } from "../runs/run.ts";
import type { RunUsage } from "../runs/usage.ts";
import { timestamp } from "./http/time.ts";

const NANO = 1_000_000_000;
const MIB = 1024 * 1024;

/** A run as callers get it. */
export function shownRun(run: Run) {
  const spec = specOf(run);
  const { usage, denials } = accountOf(run);
  return {
    run_id: run.id,
    namespace: run.namespace,
    status: run.status,
    label: run.label,
    exit_code: run.exitCode,
    error: run.error,
    created_at: timestamp(run.createdAt),
    started_at: timeOrNull(run.startedAt),
    finished_at: timeOrNull(run.finishedAt),
    command: spec.command,
    agent: spec.agent,
    timings: timingsOf(run),
    usage: shownUsage(usage),
    // What was missing at its end is there when nothing is left to be done for it.
    usage_complete: usage.complete || run.settled,
    denials: denials.map(({ at, ...rest }) => ({ at: timestamp(at), ...rest })),
    worktree: { ...spec.worktree, state: run.worktree },
    limits: limitsOf(run),
    on_success: spec.on_success,
  };
}

type Spent = RunUsage["llm"]["by_model"][string];

function shownUsage({ llm, git, egress, peak_memory_bytes, cpu_ms }: RunUsage) {
  const { by_model, ...all } = llm;
  return {
    llm: {
      ...inDollars(all),
      by_model: Object.fromEntries(
        Object.entries(by_model).map(([model, spent]) => [model, inDollars(spent)]),
      ),
    },
    git,
    egress,
    peak_memory_mb: peak_memory_bytes === null ? null : Math.round((peak_memory_bytes * 10) / MIB) / 10,
    cpu_s: cpu_ms === null ? null : cpu_ms / 1000,
  };
}

function inDollars({ usd_nano, ...rest }: Spent) {
  return { ...rest, usd: usd_nano / NANO };
}

function timeOrNull(ms: number | null): string | null {
  return ms === null ? null : timestamp(ms);
}
