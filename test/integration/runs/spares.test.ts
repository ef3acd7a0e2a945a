import { expect, test } from "bun:test";
import { APPLIANCE } from "../../../src/audit/event.ts";
import { namespaceId, type RunId } from "../../../src/ids.ts";
import { runRequest } from "../../../src/runs/request.ts";
import { runsFixture } from "../../fixtures/runs.ts";
import { until } from "../../fixtures/until.ts";

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

test("a spare whose time is over is replaced, and a run that was to have it gets another", async () => {
  await using fixture = await runsFixture({ runs: { pool: 1 } });
  const { host } = fixture;
  await until(() => fixture.runs.stats().spare === 1);
  const [first] = [...host.sandboxes.keys()];
  host.exit(first!, 0, { exit_code: null, cause: "timeout" });
  await until(() => fixture.runs.stats().spare === 1 && !host.sandboxes.has(first!));
  // Its end and a call cross.
  const [second] = [...host.sandboxes.keys()];
  const begun = fixture.start();
  host.exit(second!, 0, { exit_code: null, cause: "timeout" });
  const id = await begun;
  expect<string | undefined>(id).toBe(second);
  await fixture.launched(id);
  host.exit(id, 3);
  expect(await fixture.settled(id)).toMatchObject({ status: "failed", exitCode: 3 });
});

test("a run for which sandboxd boots no sandbox yet waits until it does", async () => {
  await using fixture = await runsFixture();
  const { host } = fixture;
  host.most = 1;
  const first = await fixture.start();
  await fixture.launched(first);
  const second = await fixture.start();
  await until(async () => (await fixture.row(second)).status === "preparing");
  host.exit(first, 0);
  await fixture.launched(second);
  host.exit(second, 0);
  expect((await fixture.settled(second)).status).toBe("succeeded");
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

test("calls that are refused while it boots boot no more, and the run that comes then begins in it", async () => {
  await using fixture = await runsFixture({ runs: { live: 1 } });
  const { host } = fixture;
  host.most = 1;
  const held = Promise.withResolvers<void>();
  host.booting = held.promise;
  const none = namespaceId.make();
  for (let call = 0; call < 3; call++) {
    const refused = await fixture.start({}, { namespace: none }).catch((error: unknown) => String(error));
    expect(refused).toContain("is being deleted");
  }
  const id = await fixture.start();
  held.resolve();
  await fixture.launched(id);
  expect([host.booted, fixture.runs.stats().spare]).toEqual([1, 0]);
  host.exit(id, 0);
  expect((await fixture.settled(id)).status).toBe("succeeded");
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
