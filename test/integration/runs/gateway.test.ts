import { expect, test } from "bun:test";
import { credentialId } from "../../../src/ids.ts";
import { shownRun } from "../../../src/api/run-shown.ts";
import { runUsage } from "../../../src/runs/usage.ts";
import { runsFixture } from "../../fixtures/runs.ts";
import { until } from "../../fixtures/until.ts";

const llmRecord = (credential: string, usd_nano: number) => ({
  kind: "llm" as const,
  credential,
  model: "m",
  route: "/v1/messages",
  status: 200,
  input_tokens: 10,
  output_tokens: 5,
  cache_read_tokens: 0,
  cache_write_tokens: 0,
  usd_nano,
  estimated: false,
  first_byte_ms: 1,
  duration_ms: 2,
  content: null,
});

test("what the gateway records counts once, however often it is told", async () => {
  await using fixture = await runsFixture();
  const credential = { id: credentialId.make(), kind: "anthropic" as const };
  fixture.credentials.set("models", credential);
  const id = await fixture.start({ llm: { credential: "models", models: ["m"], max_usd: 1 } });
  await fixture.launched(id);
  expect(fixture.gateway.granted.get(id)!.llm).toMatchObject([
    { credential: credential.id, models: ["m"], max_usd_nano: 1e9, dialect: "anthropic" },
  ]);
  expect(Buffer.from(fixture.gateway.granted.get(id)!.llm[0]!.sealed, "base64").toString()).toStartWith(
    "sealed",
  );
  fixture.gateway.record(id, llmRecord(credential.id, 100));
  await until(async () => (await fixture.row(id)).usdNano === 100);
  // An api that is killed after it has stored them asks with its old place, and is told them again.
  fixture.kill();
  fixture.gateway.record(id, llmRecord(credential.id, 20));
  await fixture.restart();
  await until(async () => (await fixture.row(id)).usdNano === 120);
  fixture.gateway.record(id, llmRecord(credential.id, 3));
  fixture.gateway.record(id, { kind: "denied", lane: "llm", reason: "budget", detail: "spent", count: 2 });
  fixture.host.exit(id, 1);
  const run = await fixture.settled(id);
  expect(run).toMatchObject({ status: "budget_exhausted", usdNano: 123 });
  expect(runUsage.parse(run.usage)).toMatchObject({
    llm: { requests: 3, usd_nano: 123 },
    peak_memory_bytes: 64 * 1024 ** 2,
    cpu_ms: 1500,
  });
  expect((await fixture.eventsOf(id)).filter((type) => type === "run.llm")).toHaveLength(3);
  expect(fixture.gateway.journals.size).toBe(0);
});

test("a gateway that has restarted is told again who may use it; with a credential gone, without that", async () => {
  await using fixture = await runsFixture();
  const credential = { id: credentialId.make(), kind: "openai" as const };
  fixture.credentials.set("models", credential);
  const id = await fixture.start({ llm: { credential: "models" } });
  await fixture.launched(id);
  const first = fixture.gateway.granted.get(id)!;
  fixture.gateway.restart();
  await until(() => fixture.gateway.granted.get(id));
  expect(fixture.gateway.granted.get(id)!).toEqual(first);
  // Also when api asks it for nothing at that moment, as in the pause after it has taken a record over.
  fixture.gateway.record(id, llmRecord(credential.id, 1));
  await until(async () => (await fixture.row(id)).usdNano === 1);
  fixture.gateway.restart();
  await until(() => fixture.gateway.granted.get(id));
  fixture.credentials.clear();
  await fixture.runs.credentialRemoved(credential.id);
  expect(fixture.gateway.granted.get(id)!.llm).toEqual([]);
  fixture.host.exit(id, 0);
  expect((await fixture.settled(id)).status).toBe("succeeded");
});

test("a run that the gateway can't let in again keeps no other out", async () => {
  await using fixture = await runsFixture();
  const { gateway } = fixture;
  const ids = [await fixture.start(), await fixture.start(), await fixture.start()];
  for (const id of ids) await fixture.launched(id);
  gateway.refused.add(ids[0]!);
  gateway.restart();
  await until(() => gateway.granted.has(ids[1]!) && gateway.granted.has(ids[2]!));
  gateway.refused.clear();
  await until(() => gateway.granted.has(ids[0]!));
});

test("a run whose end comes while the gateway is told of it anew is not left let in", async () => {
  await using fixture = await runsFixture();
  const credential = { id: credentialId.make(), kind: "openai" as const };
  fixture.credentials.set("models", credential);
  const id = await fixture.start({ llm: { credential: "models" } });
  await fixture.launched(id);
  const held = Promise.withResolvers<void>();
  fixture.gateway.granting = held.promise;
  const told = fixture.runs.credentialRemoved(credential.id);
  await until(() => fixture.gateway.grants === 2);
  fixture.host.exit(id, 0);
  await fixture.settled(id);
  held.resolve();
  await told;
  expect(fixture.gateway.granted.has(id)).toBe(false);
});

test("what a run used is not all while the gateway that knows it is away: its receipt says so", async () => {
  await using fixture = await runsFixture({ gatewayPatienceMs: 0 });
  const [whole, lacking] = [await fixture.start(), await fixture.start()];
  const record = { kind: "denied", lane: "egress", reason: "host", detail: "d", count: 3 } as const;
  for (const id of [whole, lacking]) await fixture.launched(id);
  fixture.gateway.record(whole, record);
  fixture.host.exit(whole, 0);
  const known = shownRun(await fixture.settled(whole));
  expect((await fixture.row(whole)).receipt).toMatchObject({
    usage_complete: true,
    denials: [{ count: 3 }],
  });
  expect(known.usage_complete).toBe(true);

  fixture.gateway.leave();
  fixture.gateway.record(lacking, record);
  expect(shownRun(await fixture.row(lacking)).usage_complete).toBe(false);
  fixture.host.exit(lacking, 0);
  const over = await fixture.over(lacking);
  const attested = { usage_complete: false, denials: [] };
  expect(over.receipt).toMatchObject(attested);
  expect(shownRun(over)).toMatchObject({ status: "succeeded", usage_complete: false, denials: [] });
  const finished = (await fixture.events()).filter(({ type }) => type === "run.finished");
  expect(finished.map(({ data }) => [data["run_id"], data["usage_complete"]])).toEqual([
    [whole, true],
    [lacking, false],
  ]);

  // Its row gets it later, and its receipt stays what was signed.
  fixture.gateway.away = false;
  const settled = await fixture.settled(lacking);
  expect(shownRun(settled)).toMatchObject({ usage_complete: true, denials: [{ count: 3 }] });
  expect(settled.receipt).toMatchObject(attested);
});

test("a run whose credential is deleted before it begins ends as an error that says so", async () => {
  await using fixture = await runsFixture({ runs: { live: 1 } });
  const before = await fixture.start();
  await fixture.launched(before);
  fixture.credentials.set("models", { id: credentialId.make(), kind: "anthropic" });
  const id = await fixture.start({ llm: { credential: "models", models: ["m"] } });
  fixture.credentials.delete("models");
  fixture.host.exit(before, 0);
  expect(await fixture.settled(id)).toMatchObject({
    status: "error",
    error: "A credential that it was to use was deleted before it began.",
    worktree: "discarded",
  });
  expect(fixture.host.sandboxes.has(id)).toBe(false);
});
