import { expect, test } from "bun:test";
import type { RunFate } from "../../../src/protocol/sandboxd.ts";
import { outcomeOf, type OutcomeParts } from "../../../src/runs/outcome.ts";

const DEADLINE = 2_000_000;

function outcome(fate: Partial<RunFate>, rest: Partial<OutcomeParts> = {}) {
  return outcomeOf({
    fate: {
      exit_code: 0,
      cause: "exit",
      fault: null,
      ended_at: DEADLINE - 1,
      peak_memory_bytes: null,
      cpu_ms: null,
      ...fate,
    },
    stop: null,
    deadline: DEADLINE,
    limits: { timeout_s: 60, memory_mb: 512, cpus: 1, pids: 64, disk_mb: 64 },
    denials: [],
    ...rest,
  });
}

const spent: OutcomeParts["denials"] = [{ at: 1, kind: "llm", reason: "budget", count: 2 }];

test("a command's own end", () => {
  expect(outcome({})).toEqual({ status: "succeeded", exitCode: 0, error: null });
  expect(outcome({ exit_code: 3 })).toEqual({ status: "failed", exitCode: 3, error: null });
});

test("a spent budget shows only where the command then failed", () => {
  expect(outcome({ exit_code: 1 }, { denials: spent })).toMatchObject({
    status: "budget_exhausted",
    exitCode: 1,
  });
  expect(outcome({ exit_code: 0 }, { denials: spent }).status).toBe("succeeded");
  const other: OutcomeParts["denials"] = [{ at: 1, kind: "llm", reason: "model", count: 1 }];
  expect(outcome({ exit_code: 1 }, { denials: other }).status).toBe("failed");
});

test("whoever is over the clock has timed out, killed by it or ended by its warning", () => {
  expect(outcome({ cause: "timeout", exit_code: null })).toMatchObject({
    status: "timed_out",
    exitCode: null,
    error: "It took longer than its 60 s.",
  });
  expect(outcome({ exit_code: 0, ended_at: DEADLINE + 5 })).toMatchObject({
    status: "timed_out",
    exitCode: 0,
  });
});

test("a stop that was asked for is what it is, whatever the command made of it", () => {
  const stop = { status: "cancelled", error: null } as const;
  expect(outcome({ exit_code: 143 }, { stop })).toMatchObject({ status: "cancelled", exitCode: 143 });
  expect(outcome({ cause: "stopped", exit_code: null }, { stop }).status).toBe("cancelled");
  expect(outcome({ cause: "timeout", exit_code: null }, { stop }).status).toBe("cancelled");
  expect(outcome({}, { stop: { status: "failed", error: "too much" } })).toMatchObject({
    status: "failed",
    error: "too much",
  });
});

test("memory is the run's fault, a lost sandbox ours", () => {
  expect(outcome({ cause: "oom", exit_code: null })).toEqual({
    status: "failed",
    exitCode: 137,
    error: "It ran out of its 512 MiB of memory.",
  });
  expect(outcome({ cause: "lost", exit_code: null, fault: "host restarted" })).toEqual({
    status: "error",
    exitCode: null,
    error: "host restarted",
  });
  expect(outcome({ cause: "stopped", exit_code: null }).status).toBe("error");
  expect(outcome({ exit_code: null }).status).toBe("error");
  // Found out after the clock had run out: still ours.
  expect(outcome({ cause: "lost", exit_code: null, ended_at: DEADLINE + 1 }).status).toBe("error");
});
