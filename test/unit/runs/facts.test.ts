import { expect, test } from "bun:test";
import { credentialId, keyId, namespaceId, runId, workspaceId } from "../../../src/ids.ts";
import { gatewayRecord } from "../../../src/protocol/gateway.ts";
import { canonicalize } from "../../../src/runs/canonical.ts";
import { factsOf, originOf } from "../../../src/runs/facts.ts";
import type { Run } from "../../../src/runs/run.ts";
import { runDenials, runUsage, withRecord, type Account } from "../../../src/runs/usage.ts";

const id = runId.make();
const chain = workspaceId.make();
const credential = credentialId.make();
const head = (seq: number) => ({ chain, seq, createdAt: 1, hash: String(seq).repeat(64) });

const RECORDS = [
  { kind: "git", credential, repository: "o/r", action: "fetch", refs: [], bytes: 1, duration_ms: 1 },
  {
    kind: "git",
    credential,
    repository: "o/r",
    action: "push",
    refs: [{ ref: "refs/heads/agent/x", old: "0".repeat(40), new: "1".repeat(40), accepted: true }],
    bytes: 1,
    duration_ms: 1,
  },
  {
    kind: "egress",
    host: "pypi.example",
    port: 443,
    connections: 1,
    bytes_sent: 2,
    bytes_received: 3,
    duration_ms: 1,
  },
  {
    kind: "egress",
    host: "pypi.example",
    port: 443,
    connections: 0,
    bytes_sent: 10,
    bytes_received: 0,
    duration_ms: 1,
  },
  {
    kind: "egress",
    host: "other.example",
    port: 8443,
    connections: 1,
    bytes_sent: 0,
    bytes_received: 0,
    duration_ms: 1,
  },
  { kind: "denied", lane: "egress", reason: "host", detail: "d", count: 2 },
].map((record, index) => gatewayRecord.parse({ run: id, seq: index + 1, at: 1000, ...record }));

const account = RECORDS.reduce<Account>(withRecord, {
  usage: runUsage.parse({}),
  denials: runDenials.parse([]),
});

function run(over: Partial<Run> = {}): Run {
  return {
    id,
    workspaceId: chain,
    namespaceId: namespaceId.make(),
    namespace: "own",
    keyId: keyId.make(),
    status: "failed",
    label: null,
    request: { b: 1, a: "x" },
    grants: { llm: [], git: null, egress: null, direct: [] },
    limits: { timeout_s: 1, memory_mb: 1, cpus: 0.5, pids: 1, disk_mb: 1 },
    createdAt: 0,
    startedAt: 1000,
    finishedAt: 2000,
    exitCode: 3,
    error: null,
    timings: { run_ms: 1000 },
    usage: account.usage,
    denials: account.denials,
    base: { from: "namespace", manifest: { blobs: ["a".repeat(64), "b".repeat(64)] } },
    result: { hash: "sha256:r", changes: 4, skipped: 0 },
    origin: originOf({ keyId: null, localUser: "eve", requestId: null, address: null }, head(5)),
    madeOf: { spec_sha256: "s", seccomp_sha256: "c", rootfs: "sha256:f", runsc: "v" },
    ...over,
  } as Partial<Run> as Run;
}

test("a receipt tells of pushes by ref, of hosts one by one, and of the log before and after", () => {
  const facts = factsOf(run(), head(9));
  expect(facts.git).toEqual({
    fetches: 1,
    pushes: 1,
    refs: [
      {
        repository: "o/r",
        ref: "refs/heads/agent/x",
        old: "0".repeat(40),
        new: "1".repeat(40),
        accepted: true,
      },
    ],
  });
  expect(facts.egress).toEqual([
    { host: "pypi.example:443", connections: 1, bytes: 15 },
    { host: "other.example:8443", connections: 1, bytes: 0 },
  ]);
  expect(facts.denials).toEqual([
    { at: "1970-01-01T00:00:01.000Z", kind: "egress", reason: "host", count: 2 },
  ]);
  expect(facts.audit).toEqual({
    before: { seq: 5, hash: "5".repeat(64) },
    after: { seq: 9, hash: "9".repeat(64) },
  });
  expect(facts.asked_by.local_user).toBe("eve");
  expect(facts.worktree).toMatchObject({ from: "namespace", result: "sha256:r", changes: 4 });
  expect(facts.worktree.base).toMatch(/^sha256:[0-9a-f]{64}$/);
  expect(facts.sandbox).toEqual({ spec_sha256: "s", seccomp_sha256: "c", rootfs: "sha256:f", runsc: "v" });
  expect(JSON.parse(canonicalize(facts))).toEqual(facts as never);
});

test("a receipt says whether what it tells of the run's use is all", () => {
  expect(factsOf(run(), null).usage_complete).toBe(false);
  const usage = { ...account.usage, complete: true };
  expect(factsOf(run({ usage }), null).usage_complete).toBe(true);
});

test("one that never came to have a sandbox says so, and one that is not over has none", () => {
  const facts = factsOf(run({ startedAt: null, base: null, result: null, madeOf: null, origin: null }), null);
  expect(facts).toMatchObject({
    started_at: null,
    sandbox: null,
    worktree: { from: null, base: null, result: null, changes: null },
    audit: { before: null, after: null },
  });
  expect(() => factsOf(run({ finishedAt: null }), null)).toThrow("not over");
});

test("hosts that a run names without end are counted together", () => {
  const many = Array.from({ length: 500 }, (_, n) =>
    gatewayRecord.parse({ ...RECORDS[2], seq: n + 10, host: `h${n}.example` }),
  ).reduce<Account>(withRecord, account);
  const hosts = Object.keys(many.usage.egress.by_host);
  expect(hosts.length).toBeLessThanOrEqual(101);
  const counted = Object.values(many.usage.egress.by_host).reduce(
    (sum, { connections }) => sum + connections,
    0,
  );
  expect(counted).toBe(many.usage.egress.connections);
});

/** Of RFC 8785's appendix B and its examples. */
test.each([
  [333333333.3333333, "333333333.3333333"],
  [1e30, "1e+30"],
  [4.5, "4.5"],
  [2e-3, "0.002"],
  [1e-27, "1e-27"],
  [-0, "0"],
  ['\u20ac$\u000f\nA\'B"\\\\"/', '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'],
  [
    { "\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\ud83d\ude00": 5, "\u0080": 6, "\u00f6": 7 },
    '{"\\r":2,"1":4,"\u0080":6,"ö":7,"€":1,"😀":5,"\ufb33":3}',
  ],
])("canonical: %p", (value, text) => {
  expect(canonicalize(value)).toBe(text);
});

test("what has no canonical form is refused", () => {
  for (const value of [
    Number.NaN,
    Number.POSITIVE_INFINITY,
    "\ud800",
    { "\ud800": 1 },
    undefined,
    [undefined],
  ])
    expect(() => canonicalize(value)).toThrow();
});
