import { expect, test } from "bun:test";
import { failureOf } from "../../fixtures/failure.ts";
import { runsFixture } from "../../fixtures/runs.ts";

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
