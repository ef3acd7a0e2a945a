import { join } from "node:path";
import { expect, test } from "bun:test";
import { createDirectoryTarget } from "../../../src/backup/directory.ts";
import { LOCK } from "../../../src/backup/layout.ts";
import { lockTarget } from "../../../src/backup/lock.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const quick = { renewEveryMs: 20, leaseMs: 400, lookEveryMs: 20 };
const still = { ...quick, renewEveryMs: 60_000 };
const quiet = () => {};

function newTarget() {
  const scratch = scratchDirectory();
  return {
    store: createDirectoryTarget(join(scratch.path, "target")),
    [Symbol.dispose]: () => scratch[Symbol.dispose](),
  };
}

test("one at a time has it, and the next once it is released", async () => {
  using target = newTarget();
  const { store } = target;
  const first = await lockTarget(store, quiet, quick);
  expect(await failureOf(lockTarget(store, quiet, quick))).toContain("under way there (process");
  await first.check();
  await first.release();
  const second = await lockTarget(store, quiet, quick);
  expect(await failureOf(first.check())).toContain("taken over");
  await second.check();
  await second.release();
});

test("of many processes that begin at once exactly one has it", async () => {
  using scratch = scratchDirectory();
  const racers = Array.from({ length: 6 }, () =>
    Bun.spawn([process.execPath, join(import.meta.dir, "../../fixtures/lock-process.ts"), scratch.path], {
      stdout: "pipe",
      stderr: "inherit",
    }),
  );
  const said = await Promise.all(racers.map(async ({ stdout }) => new Response(stdout).text()));
  expect(said.filter((text) => text === "has it\n")).toHaveLength(1);
  expect(said.filter((text) => text.includes("under way"))).toHaveLength(5);
});

test("one that does not renew it loses it, and finds out before it changes anything", async () => {
  using target = newTarget();
  const { store } = target;
  const lost = await lockTarget(store, quiet, still);
  const waited: string[] = [];
  const taken = await lockTarget(store, (who) => waited.push(who), quick);
  expect(waited).toHaveLength(1);
  expect(await failureOf(lost.check())).toContain("taken over");
  await lost.release();
  await taken.check();
  await taken.release();
});

test("one that was killed on this machine is found dead at once", async () => {
  using target = newTarget();
  const { store } = target;
  const lock = await lockTarget(store, quiet, still);
  const held = await store.read(LOCK);
  const { holder } = JSON.parse(String(held?.bytes)) as { holder: object };
  // The same process number, but it began at another time.
  const dead = { holder: { ...holder, began: "1" }, id: "another", renewal: 0 };
  await store.replace(LOCK, Buffer.from(JSON.stringify(dead)), held?.tag ?? null);
  const next = await lockTarget(store, () => expect.unreachable(), { ...quick, leaseMs: 60_000 });
  expect(await failureOf(lock.check())).toContain("taken over");
  await next.release();
});
