import { expect, test } from "bun:test";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { RunId } from "../../../../src/ids.ts";
import { statfs } from "../../../../src/kernel/statfs.ts";
import { createDiskWatch } from "../../../../src/runs/worktree/watch.ts";
import { allEvents } from "../../../fixtures/chain.ts";
import { until } from "../../../fixtures/until.ts";
import { worktreeFixture } from "../../../fixtures/worktrees.ts";

const MIB = 1024 * 1024;

test("a worktree is thrown away when it was kept long enough, and says so", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  const [old, young, live] = [
    await fixture.fork(namespace),
    await fixture.fork(namespace),
    await fixture.fork(namespace),
  ];
  await fixture.rows.update(old.id, { finishedAt: Date.now() - 3_600_000 });
  await fixture.rows.update(young.id, { finishedAt: Date.now() - 60_000 });
  await fixture.rows.update(live.id, { status: "running", finishedAt: null });
  expect(await fixture.worktrees.expire(600_000)).toBe(1);
  expect([old, young, live].map(({ work }) => existsSync(work))).toEqual([false, true, true]);
  expect(await fixture.row(old.id)).toMatchObject({ worktree: "discarded", base: null });
  const discarded = (await allEvents(fixture.db)).filter(({ type }) => type === "run.discarded");
  expect(discarded.map(({ data }) => data)).toEqual([{ run_id: old.id, reason: "expired" }]);
});

test("a run that goes on keeps its worktree, and a discarded one stays discarded", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  const fork = await fixture.fork(namespace);
  const call = fixture.call(namespace);
  await fixture.rows.update(fork.id, { status: "running" });
  expect(await fixture.worktrees.discard(fork.id, call).catch((error: unknown) => error)).toMatchObject({
    code: "conflict",
  });
  expect(existsSync(fork.work)).toBe(true);
  await fixture.rows.update(fork.id, { status: "failed" });
  await fixture.worktrees.discard(fork.id, call);
  await fixture.worktrees.discard(fork.id, call);
  const events = (await allEvents(fixture.db)).filter(({ type }) => type === "run.discarded");
  expect(events.length).toBe(1);
});

test("a worktree that a power cut kept from the disk is not taken for the run's work", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  writeFileSync(join(namespace.live, "file"), "x");
  const [kept, lost] = [await fixture.fork(namespace), await fixture.fork(namespace)];
  for (const { own } of [kept, lost]) {
    await until(() => existsSync(join(own, "kept")));
    writeFileSync(join(own, "boot"), "another boot of the machine");
  }
  rmSync(join(lost.own, "kept"));
  await fixture.worktrees.resume();
  expect(await fixture.row(kept.id)).toMatchObject({ worktree: "ready" });
  expect(await fixture.row(lost.id)).toMatchObject({ worktree: "discarded", base: null });
  expect(existsSync(lost.work)).toBe(false);
});

test("what counts is what a worktree has more than its run found there", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  writeFileSync(join(namespace.live, "large"), Buffer.alloc(2 * MIB));
  const fork = await fixture.fork(namespace);
  expect(await fixture.worktrees.measure(fork.id)).toEqual({ bytes: 0, entries: 0 });
  mkdirSync(join(fork.work, "d"));
  writeFileSync(join(fork.work, "d/more"), Buffer.alloc(MIB));
  expect(await fixture.worktrees.measure(fork.id)).toEqual({ bytes: MIB, entries: 2 });
});

test("a run that writes more than its disk_mb is stopped, and one that does not goes on", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  const [wild, tame] = [await fixture.fork(namespace), await fixture.fork(namespace)];
  const watch = createDiskWatch({
    measure: async (run) => fixture.worktrees.measure(run),
    floor: { status: () => statfs(fixture.dir), isAbove: () => true },
    log: { warn() {} },
  });
  const stopped = new Map<string, string>();
  const ends = [wild, tame].map(({ id }) => watch.watch(id, 4 * MIB, (why) => stopped.set(id, why)));
  writeFileSync(join(tame.work, "file"), Buffer.alloc(3 * MIB));
  for (let n = 0; n < 6; n++) writeFileSync(join(wild.work, `f${n}`), Buffer.alloc(MIB, n));
  await until(() => stopped.size > 0);
  for (const end of ends) end();
  expect([...stopped]).toEqual([[wild.id, "It wrote more than its 4 MiB of disk."]]);
});

test("below the disk's floor the run that writes is stopped", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  const [wild, tame] = [await fixture.fork(namespace), await fixture.fork(namespace)];
  const disk = { above: true };
  const measured = new Set<RunId>();
  const watch = createDiskWatch({
    measure: async (run) => {
      const found = await fixture.worktrees.measure(run);
      measured.add(run);
      return found;
    },
    floor: { status: () => statfs(fixture.dir), isAbove: () => disk.above },
    log: { warn() {} },
  });
  const stopped = new Map<string, string>();
  const ends = [wild, tame].map(({ id }) =>
    watch.watch(id, 1000 * MIB, (why) => {
      stopped.set(id, why);
      disk.above = true;
    }),
  );
  await until(() => measured.size === 2);
  writeFileSync(join(wild.work, "file"), Buffer.alloc(8 * MIB));
  disk.above = false;
  await until(() => stopped.size > 0);
  for (const end of ends) end();
  expect([...stopped.keys()]).toEqual([wild.id]);
});
