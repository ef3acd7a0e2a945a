import { expect, test } from "bun:test";
import type { RunFate } from "../../../src/protocol/sandboxd.ts";
import { withDropped } from "../../../src/runs/usage.ts";

const fate: RunFate = {
  exit_code: 0,
  cause: "exit",
  fault: null,
  ended_at: 7000,
  peak_memory_bytes: null,
  cpu_ms: null,
};

test("what the filter dropped becomes denials beside the gateway's, one a reason", () => {
  const budget = { at: 5000, kind: "llm", reason: "budget", count: 2 } as const;
  const dropped = [
    { reason: "dns", packets: 3 },
    { reason: "neighbour", packets: 1 },
  ] as const;
  expect(withDropped([budget], { ...fate, dropped: [...dropped] })).toEqual([
    budget,
    { at: 7000, kind: "network", reason: "dns", count: 3 },
    { at: 7000, kind: "network", reason: "neighbour", count: 1 },
  ]);
  expect(withDropped([budget], fate)).toEqual([budget]);
});
