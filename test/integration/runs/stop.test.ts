import { expect, test } from "bun:test";
import { APPLIANCE } from "../../../src/audit/event.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { runsFixture } from "../../fixtures/runs.ts";
import { until } from "../../fixtures/until.ts";

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

test("a key that was revoked right before a crash takes its runs along at the next start", async () => {
  await using fixture = await runsFixture();
  const id = await fixture.start();
  await fixture.launched(id);
  fixture.kill();
  await fixture.revokeKey();
  await fixture.restart();
  expect((await fixture.settled(id)).status).toBe("cancelled");
});
