import { expect, test } from "bun:test";
import { AppError } from "../../../src/errors.ts";
import { type RunId } from "../../../src/ids.ts";
import { runsFixture } from "../../fixtures/runs.ts";
import { until } from "../../fixtures/until.ts";

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

test("the input of a run that could not be launched is closed, too", async () => {
  await using fixture = await runsFixture();
  fixture.host.onLaunch = () => {
    throw new Error("nobody reads");
  };
  const id = await fixture.start();
  expect(await fixture.settled(id)).toMatchObject({ status: "error" });
  expect(fixture.done).toContain(`input closed ${id}`);
});
