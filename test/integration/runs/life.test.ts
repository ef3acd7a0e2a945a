import { expect, test } from "bun:test";
import { APPLIANCE } from "../../../src/audit/event.ts";
import { AppError } from "../../../src/errors.ts";
import { credentialId, namespaceId, runId, type RunId } from "../../../src/ids.ts";
import { runRequest } from "../../../src/runs/request.ts";
import { shownRun } from "../../../src/api/run-shown.ts";
import { runUsage } from "../../../src/runs/usage.ts";
import { failureOf } from "../../fixtures/failure.ts";
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

test("a run goes from its request to where nothing is left of it", async () => {
  await using fixture = await runsFixture();
  const id = await fixture.start({
    command: "echo hi",
    env: { MINE: "s3cret-value" },
    stdin: "typed",
    limits: { timeout_s: 60, memory_mb: 256 },
  });
  await fixture.launched(id);
  const sandbox = fixture.host.sandboxes.get(id)!;
  expect(sandbox.launched).toMatchObject({ argv: ["bash", "-c", "echo hi"], cwd: "/work", stdin: true });
  expect(sandbox.launched!.env).toMatchObject({ MINE: "s3cret-value", COFFERDAM_RUN_ID: id });
  expect(sandbox.admitted).toMatchObject({ memory_mb: 256, timeout_s: 70 });
  const running = await fixture.row(id);
  expect(running).toMatchObject({ status: "running", exitCode: null, finishedAt: null });
  expect(running.deadline! - running.startedAt!).toBe(60_000);
  fixture.host.exit(id, 3);
  expect(await fixture.settled(id)).toMatchObject({
    status: "failed",
    exitCode: 3,
    error: null,
    given: null,
  });
  expect(await fixture.eventsOf(id)).toEqual(["run.created", "run.started", "run.finished"]);
  expect(fixture.host.sandboxes.size).toBe(0);
  expect(fixture.gateway.granted.size).toBe(0);
  expect(fixture.gateway.forgotten).toContain(id);
  // What it was given stands in no row and no event any more.
  expect(JSON.stringify([await fixture.row(id), await fixture.events()])).not.toMatch(/s3cret|typed|sk-ant/);
  expect(fixture.runs.stats()).toEqual({ live: 0, waiting: 0, spare: 0 });
  expect(fixture.metered).toEqual(["failed"]);
});

/** Kills api at its n-th step, then at the next, and so on, until a run's whole life has fewer. */
test("whenever api is killed, the next one goes on: launched once, ended once, with its own exit code", async () => {
  let steps = 0;
  for (let dieAt = 1; dieAt === 1 || dieAt < steps; dieAt++) {
    await using fixture = await runsFixture();
    fixture.host.onLaunch = (run) => setTimeout(() => fixture.host.exit(run, 7), 1);
    const before = fixture.state.steps;
    fixture.state.dieAt = dieAt === 1 ? 1e9 : before + dieAt;
    const started = fixture.start().catch(() => null);
    if (dieAt === 1) {
      await fixture.settled((await started) as RunId);
      steps = fixture.state.steps - before;
      continue;
    }
    await until(() => fixture.state.steps >= fixture.state.dieAt);
    await fixture.restart();
    const [row] = [
      ...(await fixture.rows.page(
        { workspaceId: fixture.workspaceId },
        { statuses: [], before: null, limit: 2 },
      )),
    ];
    // Killed before there was a row: then nobody was told of a run.
    if (row === undefined) continue;
    const settled = await fixture.settled(row.id);
    const [events, at] = [await fixture.eventsOf(row.id), `killed at step ${dieAt}`];
    expect([at, settled.status, settled.exitCode]).toEqual([at, "failed", 7]);
    expect([at, ...events]).toEqual([at, "run.created", "run.started", "run.finished"]);
    expect([at, fixture.host.sandboxes.size, fixture.gateway.granted.size]).toEqual([at, 0, 0]);
    expect([at, ...fixture.cutOff]).toEqual([at]);
  }
  expect(steps).toBeGreaterThan(30);
}, 120_000);

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
  fixture.credentials.clear();
  await fixture.runs.credentialRemoved(credential.id);
  expect(fixture.gateway.granted.get(id)!.llm).toEqual([]);
  fixture.host.exit(id, 0);
  expect((await fixture.settled(id)).status).toBe("succeeded");
});

test("a run waits for roles that are away, and its end for a gateway that is", async () => {
  await using fixture = await runsFixture();
  fixture.host.leave();
  fixture.gateway.leave();
  const id = await fixture.start();
  await fixture.reaches(id, "preparing");
  fixture.host.away = false;
  fixture.gateway.away = false;
  await fixture.launched(id);
  fixture.gateway.leave();
  fixture.host.exit(id, 0);
  await until(async () => (await fixture.row(id)).fate !== null);
  expect((await fixture.row(id)).status).toBe("running");
  fixture.gateway.away = false;
  expect((await fixture.settled(id)).status).toBe("succeeded");
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

test("sandboxd that restarts loses nobody; a host that restarts ends its runs, and says so", async () => {
  await using fixture = await runsFixture();
  const id = await fixture.start();
  await fixture.launched(id);
  fixture.host.leave();
  await Bun.sleep(20);
  fixture.host.away = false;
  await Bun.sleep(400);
  expect((await fixture.row(id)).status).toBe("running");
  fixture.kill();
  fixture.host.lose();
  fixture.state.bootId = "boot-2";
  await fixture.restart();
  expect(await fixture.settled(id)).toMatchObject({
    status: "error",
    error: "host restarted",
    exitCode: null,
  });
  expect(fixture.removed).toEqual([]);
});

test("a run whose sandbox is gone within one boot is lost, and no sandbox stays without a run", async () => {
  await using fixture = await runsFixture();
  const id = await fixture.start();
  await fixture.launched(id);
  fixture.host.leave();
  fixture.host.sandboxes.clear();
  await Bun.sleep(20);
  const stray = runId.make();
  fixture.host.away = false;
  await fixture.host.call("startRun", { run: stray } as never);
  expect(await fixture.settled(id)).toMatchObject({ status: "error", exitCode: null });
  await until(() => !fixture.host.sandboxes.has(stray));
});

test("a run that is cancelled is asked to end, then killed", async () => {
  await using fixture = await runsFixture();
  const obedient = await fixture.start();
  await fixture.launched(obedient);
  const asked = await fixture.runs.cancel(await fixture.row(obedient), APPLIANCE);
  expect(asked.status).toBe("running");
  await until(() => fixture.host.sandboxes.get(obedient)?.signals.includes(15));
  fixture.host.exit(obedient, 143);
  expect(await fixture.settled(obedient)).toMatchObject({ status: "cancelled", exitCode: 143 });
  const deaf = await fixture.start();
  await fixture.launched(deaf);
  await fixture.runs.cancel(await fixture.row(deaf), APPLIANCE);
  expect(await fixture.settled(deaf)).toMatchObject({ status: "cancelled", exitCode: null });
  // Twice is once, and one that is over stays what it is.
  await fixture.runs.cancel(await fixture.row(deaf), APPLIANCE);
  expect(await fixture.eventsOf(deaf)).toEqual(["run.created", "run.started", "run.stopped", "run.finished"]);
});

test("a run can be cancelled before it lives, and while it is prepared", async () => {
  const making = Promise.withResolvers<void>();
  await using fixture = await runsFixture({
    runs: { live: 1 },
    make: async (_, signal) => {
      signal.addEventListener("abort", () => making.reject(signal.reason));
      await making.promise;
    },
  });
  const preparing = await fixture.start();
  const queued = await fixture.start();
  await fixture.reaches(preparing, "preparing");
  expect((await fixture.row(queued)).status).toBe("queued");
  await fixture.runs.cancel(await fixture.row(queued), APPLIANCE);
  expect(await fixture.settled(queued)).toMatchObject({ status: "cancelled", startedAt: null });
  await fixture.runs.cancel(await fixture.row(preparing), APPLIANCE);
  expect(await fixture.settled(preparing)).toMatchObject({ status: "cancelled", worktree: "discarded" });
  expect(fixture.host.sandboxes.size).toBe(0);
  expect(fixture.removed).toEqual(expect.arrayContaining([queued, preparing]));
});

test("a stop that was asked for is carried out by the next api", async () => {
  await using fixture = await runsFixture({ graceMs: 60_000 });
  const id = await fixture.start();
  await fixture.launched(id);
  await fixture.runs.cancel(await fixture.row(id), APPLIANCE);
  await until(() => fixture.host.sandboxes.get(id)?.signals.length === 1);
  await fixture.restart();
  await until(() => fixture.host.sandboxes.get(id)?.signals.length === 2);
  fixture.host.exit(id, 0);
  expect((await fixture.settled(id)).status).toBe("cancelled");
});

test("runs end with the key that started them, and with their namespace", async () => {
  await using fixture = await runsFixture();
  const [mine, others] = [await fixture.start(), await fixture.start({}, { key: null })];
  await fixture.launched(mine);
  await fixture.launched(others);
  await fixture.revokeKey();
  await fixture.runs.endOfKeys([fixture.key], APPLIANCE);
  expect(await fixture.settled(mine)).toMatchObject({
    status: "cancelled",
    error: "The key that started it was revoked.",
  });
  expect((await fixture.row(others)).status).toBe("running");
  expect(await failureOf(fixture.start())).toMatch(/Send a valid API key/);
  await fixture.runs.endOfNamespace(fixture.namespace, APPLIANCE);
  expect(await fixture.row(others)).toMatchObject({
    status: "cancelled",
    error: "Its namespace was deleted.",
  });
  expect(fixture.host.sandboxes.get(others)?.signals ?? []).toEqual([]);
  await fixture.runs.removeOf(fixture.namespace);
  expect(fixture.removed).toEqual(expect.arrayContaining([mine, others]));
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

test("a key that was revoked right before a crash takes its runs along at the next start", async () => {
  await using fixture = await runsFixture();
  const id = await fixture.start();
  await fixture.launched(id);
  fixture.kill();
  await fixture.revokeKey();
  await fixture.restart();
  expect((await fixture.settled(id)).status).toBe("cancelled");
});

test("so many live, the others wait, and without memory on the host all do", async () => {
  await using fixture = await runsFixture({ runs: { live: 2, queue: 4 } });
  const ids = [];
  for (let n = 0; n < 4; n++) ids.push(await fixture.start());
  const [one, two, three, four] = ids as [(typeof ids)[0], (typeof ids)[0], (typeof ids)[0], (typeof ids)[0]];
  await fixture.launched(one);
  await fixture.launched(two);
  expect(fixture.runs.stats()).toEqual({ live: 2, waiting: 2, spare: 0 });
  expect(await failureOf(fixture.start())).toMatch(/Too many runs/);
  // Those that wait do so over a restart, too.
  await fixture.restart();
  expect(fixture.runs.stats()).toEqual({ live: 2, waiting: 2, spare: 0 });
  fixture.host.memoryBytes = 1024;
  fixture.host.exit(one, 0);
  await fixture.settled(one);
  await Bun.sleep(50);
  expect((await fixture.row(three)).status).toBe("queued");
  fixture.host.memoryBytes = 2 ** 32;
  await fixture.launched(three);
  for (const id of [two, three]) fixture.host.exit(id, 0);
  await fixture.launched(four);
});

test("a run that cannot begin says why, and leaves nothing", async () => {
  await using fixture = await runsFixture({
    make: async () => {
      throw new AppError("no_space", "The disk is full; free space and try again.");
    },
  });
  const id = await fixture.start();
  expect(await fixture.settled(id)).toMatchObject({
    status: "error",
    error: "The disk is full; free space and try again.",
    startedAt: null,
  });
  expect(await fixture.eventsOf(id)).toEqual(["run.created", "run.finished"]);
  expect(fixture.host.sandboxes.size).toBe(0);
});

test("what was asked for is done with the files of a run that has succeeded, and of no other", async () => {
  await using fixture = await runsFixture();
  const end = async (on_success: string, code: number) => {
    const id = await fixture.start({ on_success });
    await fixture.launched(id);
    fixture.host.exit(id, code);
    return (await fixture.settled(id)).worktree;
  };
  expect(await end("merge", 0)).toBe("merged");
  expect(await end("merge", 1)).toBe("ready");
  expect(await end("discard", 0)).toBe("discarded");
  expect(await end("discard", 1)).toBe("ready");
  expect(await end("keep", 0)).toBe("ready");
});

test("an api that stops leaves its runs going", async () => {
  await using fixture = await runsFixture();
  const id = await fixture.start();
  await fixture.launched(id);
  await fixture.runs.close();
  expect(fixture.host.sandboxes.get(id)?.state.state).toBe("running");
  expect((await fixture.row(id)).status).toBe("running");
  fixture.host.exit(id, 5);
  await fixture.restart();
  expect(await fixture.settled(id)).toMatchObject({ status: "failed", exitCode: 5 });
});

test("a run whose worktree grows too large is stopped, and has failed", async () => {
  await using fixture = await runsFixture();
  const id = await fixture.start({ limits: { disk_mb: 5 } });
  await fixture.launched(id);
  const { limitBytes, stop } = await until(() => fixture.watched.get(id));
  expect(limitBytes).toBe(5 * 1024 ** 2);
  stop("It wrote more than its 5 MiB of disk.");
  const run = await fixture.settled(id);
  expect(run).toMatchObject({ status: "failed", error: "It wrote more than its 5 MiB of disk." });
  expect(fixture.watched.size).toBe(0);
});

test("a run takes a spare sandbox, which is made up for, and boots its own where there is none", async () => {
  await using fixture = await runsFixture({ runs: { pool: 1 } });
  const { host } = fixture;
  await until(() => fixture.runs.stats().spare === 1);
  const [spare] = [...host.sandboxes.keys()];
  const [first, second] = [await fixture.start(), await fixture.start()];
  expect<string | undefined>(first).toBe(spare);
  expect(second).not.toBe(first);
  await fixture.launched(first);
  await fixture.launched(second);
  await until(() => fixture.runs.stats().spare === 1);
  for (const id of [first, second]) host.exit(id, 0);
  for (const id of [first, second]) expect((await fixture.settled(id)).status).toBe("succeeded");
  // One that dies is replaced, and one that is left behind by an api is removed.
  const [third] = [...host.sandboxes.keys()];
  host.exit(third!, 1);
  await until(() => fixture.runs.stats().spare === 1 && !host.sandboxes.has(third!));
  const [fourth] = [...host.sandboxes.keys()];
  await fixture.restart();
  await until(() => fixture.runs.stats().spare === 1 && !host.sandboxes.has(fourth!));
});

test("the sandbox of a run that was refused while it booted is the next run's", async () => {
  await using fixture = await runsFixture();
  const { host } = fixture;
  const none = namespaceId.make();
  for (let call = 0; call < 3; call++) {
    const refused = await fixture.start({}, { namespace: none }).catch((error: unknown) => String(error));
    expect(refused).toContain("is being deleted");
    await until(() => fixture.runs.stats().spare === 1);
  }
  expect(host.booted).toBe(1);
  const [booted] = [...host.sandboxes.keys()];
  const id = await fixture.start();
  expect<string | undefined>(id).toBe(booted);
  await fixture.launched(id);
  expect([host.booted, fixture.runs.stats().spare]).toEqual([1, 0]);
});

test("an api that stops takes its spares along, those that boot too", async () => {
  await using fixture = await runsFixture({ runs: { pool: 2 } });
  await until(() => fixture.runs.stats().spare === 2);
  await fixture.start();
  await fixture.runs.close();
  await until(() => [...fixture.host.sandboxes.values()].every(({ admitted }) => admitted !== null));
});

test("a spare that has died unseen is no run's end, and a cancelled run leaves none behind", async () => {
  await using fixture = await runsFixture({ runs: { pool: 1 } });
  const { host } = fixture;
  await until(() => fixture.runs.stats().spare === 1);
  host.away = true;
  host.sandboxes.clear();
  host.away = false;
  const id = await fixture.start();
  await fixture.launched(id);
  host.exit(id, 0);
  expect((await fixture.settled(id)).status).toBe("succeeded");
});

test("an api that is killed right after it gave a spare away leaves it to the run", async () => {
  await using fixture = await runsFixture({ runs: { pool: 1 } });
  const { host } = fixture;
  host.onLaunch = (run) => setTimeout(() => host.exit(run, 7), 1);
  await until(() => fixture.runs.stats().spare === 1);
  fixture.state.dieAt = fixture.state.steps + 3;
  void fixture.start().catch(() => {});
  await until(() => fixture.state.steps >= fixture.state.dieAt);
  await fixture.restart();
  const [run] = await fixture.rows.page(
    { workspaceId: fixture.workspaceId },
    { statuses: [], before: null, limit: 2 },
  );
  expect(await fixture.settled(run!.id)).toMatchObject({ status: "failed", exitCode: 7 });
});

test("a run whose end the database did not take is over as soon as it does", async () => {
  await using fixture = await runsFixture({ retryMs: 20 });
  const id = await fixture.start();
  const other = await fixture.start();
  await fixture.launched(id);
  await fixture.launched(other);
  // Between the fate that its row keeps and the row's being over.
  fixture.host.onForget = (run) => void (run === id && (fixture.state.full = true));
  fixture.host.exit(id, 0);
  await until(() => fixture.logged.some((line) => line.includes("full")));
  expect((await fixture.row(id)).status).toBe("running");
  fixture.state.full = false;
  expect(await fixture.settled(id)).toMatchObject({ status: "succeeded", exitCode: 0 });
  expect(await fixture.eventsOf(id)).toEqual(["run.created", "run.started", "run.finished"]);
  expect((await fixture.row(other)).status).toBe("running");
});

test("a run that could not begin, nor be given up, for want of a database, begins when there is one again", async () => {
  await using fixture = await runsFixture({
    retryMs: 20,
    make: async () => {
      fixture.state.full = !fixture.logged.some((line) => line.includes("full"));
    },
  });
  const id = await fixture.start();
  await until(() => fixture.logged.some((line) => line.includes("full")));
  fixture.state.full = false;
  await fixture.launched(id);
  fixture.host.exit(id, 0);
  expect(await fixture.settled(id)).toMatchObject({ status: "succeeded" });
});

test("a merge on success is tried again while the namespace is not to be had, and what it fails of is told", async () => {
  await using fixture = await runsFixture();
  const ends = async (fails: unknown[]) => {
    fixture.state.mergeFails = fails;
    const id = await fixture.start({ on_success: "merge" });
    await fixture.launched(id);
    fixture.host.exit(id, 0);
    return fixture.settled(id);
  };
  const busy = new AppError("unavailable", "busy", { retryAfterS: 1 });
  expect(await ends([busy, busy])).toMatchObject({ status: "succeeded", worktree: "merged", error: null });
  expect(await ends([new AppError("conflict", "Both have changed x.")])).toMatchObject({
    worktree: "ready",
    error: "It was not merged: Both have changed x.",
  });
  expect(await ends([new Error("EIO")])).toMatchObject({
    worktree: "ready",
    error: "It was not merged: the appliance failed to, and its log says why.",
  });
});

test("of many runs nobody reads what each was given", async () => {
  await using fixture = await runsFixture();
  const id = await fixture.start({ stdin: "x".repeat(100_000) });
  await fixture.launched(id);
  expect((await fixture.row(id)).given).not.toBeNull();
  const scope = { workspaceId: fixture.workspaceId };
  const [listed] = await fixture.rows.page(scope, { statuses: [], before: null, limit: 10 });
  const [unsettled] = await fixture.rows.unsettled();
  for (const one of [listed, unsettled]) expect(one).toMatchObject({ id, given: null, status: "running" });
});

test("what UTF-8 cannot hold is no run's, which would have no receipt", async () => {
  await using fixture = await runsFixture();
  for (const body of [
    { command: "a\ud800" },
    { label: "\udfff" },
    { stdin: "\ud800" },
    { env: { A: "\ud800" } },
  ]) {
    expect(await failureOf(fixture.start(body))).toContain("surrogate");
  }
  const id = await fixture.start({ command: `${"a".repeat(4095)}\u{1f600}` });
  const [created] = (await fixture.events()).filter(({ data }) => data["run_id"] === id);
  expect(String(created?.data["command"]).isWellFormed()).toBe(true);
});

test("a spare that was taken for a run is no stray before there is a row of it", async () => {
  await using fixture = await runsFixture({ runs: { pool: 1 } });
  await until(() => fixture.runs.stats().spare === 1);
  const request = runRequest.parse({ command: "true", worktree: { from: "empty" } });
  const where = { workspaceId: fixture.workspaceId, namespace: "n", namespaceId: fixture.namespace };
  const known: boolean[] = [];
  const { id } = await fixture.runs.start(
    {
      ...where,
      keyId: null,
      event(type, data) {
        known.push(fixture.runs.knows(data["run_id"] as RunId));
        return { chain: fixture.workspaceId, type, namespace: "n", data, origin: APPLIANCE };
      },
    },
    request,
    await fixture.runs.check(where, request),
  );
  expect(known).toEqual([true]);
  await fixture.launched(id);
});

test("the input of a run that could not be launched is closed, too", async () => {
  await using fixture = await runsFixture();
  fixture.host.onLaunch = () => {
    throw new Error("nobody reads");
  };
  const id = await fixture.start();
  expect(await fixture.settled(id)).toMatchObject({ status: "error" });
  expect(fixture.done).toContain(`input closed ${id}`);
});

test("of a long command the beginning is kept, and the whole is run", async () => {
  await using fixture = await runsFixture();
  const command = `echo ${"x".repeat(50_000)}`;
  const id = await fixture.start({ command });
  await fixture.launched(id);
  expect(fixture.host.sandboxes.get(id)?.launched?.argv).toEqual(["bash", "-c", command]);
  fixture.host.exit(id, 0);
  const run = await fixture.settled(id);
  expect(JSON.stringify(run).length).toBeLessThan(8_000);
  expect(run.request).toMatchObject({
    command: command.slice(0, 4096),
    text_sha256: new Bun.CryptoHasher("sha256").update(command).digest("hex"),
  });
});

test("the oldest runs of a workspace leave its lists, but none of which something is left", async () => {
  await using fixture = await runsFixture();
  const ids = [];
  for (let n = 0; n < 4; n++) {
    const id = await fixture.start();
    await fixture.launched(id);
    if (n < 3) fixture.host.exit(id, 0);
    if (n < 3) await fixture.settled(id);
    // The second is merged, the others' worktrees are there.
    if (n === 1) await fixture.rows.update(id, { worktree: "merged" });
    ids.push(id);
  }
  expect(await fixture.rows.prune(0, Date.now() - 60_000)).toBe(0);
  expect(await fixture.rows.prune(3, Date.now() + 1)).toBe(0);
  expect(await fixture.rows.prune(1, Date.now() + 1)).toBe(1);
  const left = await fixture.rows.page(
    { workspaceId: fixture.workspaceId },
    { statuses: [], before: null, limit: 9 },
  );
  expect(left.map(({ id }) => id).toSorted()).toEqual(ids.filter((_, n) => n !== 1).toSorted());
});
