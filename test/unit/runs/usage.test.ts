import { expect, test } from "bun:test";
import { credentialId, runId } from "../../../src/ids.ts";
import type { GatewayRecord } from "../../../src/protocol/gateway.ts";
import { eventOf, isBudgetSpent, runDenials, runUsage, withRecord } from "../../../src/runs/usage.ts";

const run = runId.make();
const credential = credentialId.make();
const start = { usage: runUsage.parse({}), denials: runDenials.parse([]) };

type Llm = Extract<GatewayRecord, { kind: "llm" }>;
const llm = (seq: number, values: Partial<Llm> = {}): Llm => ({
  run,
  seq,
  at: 1000 + seq,
  kind: "llm",
  credential,
  model: "claude-sonnet-5",
  route: "/v1/messages",
  status: 200,
  input_tokens: 10,
  output_tokens: 5,
  cache_read_tokens: 2,
  cache_write_tokens: 1,
  usd_nano: 105_000,
  estimated: false,
  first_byte_ms: 12,
  duration_ms: 30,
  content: null,
  ...values,
});
const denied = (seq: number, reason: string, count: number): GatewayRecord => ({
  run,
  seq,
  at: 1000 + seq,
  kind: "denied",
  lane: "llm",
  reason,
  detail: "said to the caller",
  count,
});

test("requests add up, all together and a model each", () => {
  const records = [llm(1), llm(2), llm(3, { model: "other", input_tokens: 100, usd_nano: 1 })];
  const { usage } = records.reduce(withRecord, start);
  expect(usage.llm).toMatchObject({ requests: 3, input_tokens: 120, output_tokens: 15, usd_nano: 210_001 });
  expect(usage.llm.by_model["claude-sonnet-5"]).toMatchObject({ requests: 2, usd_nano: 210_000 });
  expect(usage.llm.by_model["other"]).toMatchObject({ requests: 1, input_tokens: 100 });
  expect(runUsage.parse(JSON.parse(JSON.stringify(usage)))).toEqual(usage);
});

test("models that a run makes up are bounded, and none is lost from the sum", () => {
  const records = Array.from({ length: 300 }, (_, n) =>
    llm(n + 1, { model: n === 7 ? "constructor" : `m${n}` }),
  );
  const { usage } = records.reduce(withRecord, start);
  expect(Object.keys(usage.llm.by_model).length).toBeLessThanOrEqual(101);
  const sum = Object.values(usage.llm.by_model).reduce((sum, { requests }) => sum + requests, 0);
  expect([sum, usage.llm.requests]).toEqual([300, 300]);
});

test("denials are one a lane and reason, with when it was first", () => {
  const records = [denied(1, "model", 1), denied(2, "budget", 3), denied(3, "model", 4)];
  const { denials } = records.reduce(withRecord, start);
  expect(denials).toEqual([
    { at: 1001, kind: "llm", reason: "model", count: 5 },
    { at: 1002, kind: "llm", reason: "budget", count: 3 },
  ]);
  expect(isBudgetSpent(denials)).toBe(true);
  expect(isBudgetSpent(denials.slice(0, 1))).toBe(false);
});

test("git and egress are counted", () => {
  const git = (seq: number, action: "fetch" | "push"): GatewayRecord => ({
    run,
    seq,
    at: 1,
    kind: "git",
    credential,
    repository: "o/r",
    action,
    refs: [],
    bytes: 7,
    duration_ms: 1,
  });
  const egress: GatewayRecord = {
    run,
    seq: 4,
    at: 1,
    kind: "egress",
    host: "pypi.example",
    port: 443,
    connections: 1,
    bytes_sent: 10,
    bytes_received: 90,
    duration_ms: 5,
  };
  const { usage } = [git(1, "fetch"), git(2, "fetch"), git(3, "push"), egress].reduce(withRecord, start);
  expect(usage.git).toMatchObject({ fetches: 2, pushes: 1 });
  expect(usage.egress).toMatchObject({ connections: 1, bytes: 100 });
});

test("an event has what the record has, under the run's id, and no place of the journal's", () => {
  expect(eventOf(denied(9, "model", 2))).toEqual({
    type: "run.denied",
    data: { run_id: run, lane: "llm", reason: "model", detail: "said to the caller", count: 2 },
  });
});

test("whatever providers say, the sums stay such that a row can be read", () => {
  const most = { usd_nano: 10 ** 15, input_tokens: Number.MAX_SAFE_INTEGER };
  const { usage } = Array.from({ length: 20 }, (_, n) => llm(n + 1, most)).reduce(withRecord, start);
  expect(runUsage.parse(JSON.parse(JSON.stringify(usage)))).toEqual(usage);
  expect(usage.llm.usd_nano).toBe(Number.MAX_SAFE_INTEGER);
});
