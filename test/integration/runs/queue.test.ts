import { expect, test } from "bun:test";
import { AppError } from "../../../src/errors.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { runsFixture } from "../../fixtures/runs.ts";

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

test("while a proof fails nobody's run begins, nor one that waits; the proofs' do, also beyond what may live", async () => {
  let refusal: AppError | null = null;
  await using fixture = await runsFixture({ runs: { live: 1, queue: 1 }, closed: () => refusal });
  const [one, two] = [await fixture.start(), await fixture.start()];
  await fixture.launched(one);
  refusal = new AppError("unavailable", "A wall is down.");
  expect(await failureOf(fixture.start())).toContain("A wall is down.");
  expect(await failureOf(fixture.start({}, { key: null }))).toContain("A wall is down.");
  const own = await fixture.start({}, { key: null, ofProof: true });
  await fixture.launched(own);
  fixture.host.exit(own, 0);
  fixture.host.exit(one, 0);
  await fixture.settled(one);
  await Bun.sleep(50);
  expect((await fixture.row(two)).status).toBe("queued");
  refusal = null;
  await fixture.launched(two);
});
