import { expect, test } from "bun:test";
import { runId } from "../../../src/ids.ts";
import { runsFixture } from "../../fixtures/runs.ts";
import { until } from "../../fixtures/until.ts";

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
