import { expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { AppError } from "../../../../src/errors.ts";
import { treeOnDisk } from "../../../fixtures/tree.ts";
import { worktreeFixture } from "../../../fixtures/worktrees.ts";

const FILES = 120;

async function forked() {
  const fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  for (let n = 0; n < FILES; n++) {
    mkdirSync(join(namespace.live, `d${n % 20}`), { recursive: true });
    writeFileSync(join(namespace.live, `d${n % 20}`, `f${n}`), `content ${n}`);
  }
  const fork = await fixture.fork(namespace);
  writeFileSync(join(fork.work, "new"), "of the run");
  return {
    fixture,
    namespace,
    fork,
    merge: async () => fixture.worktrees.merge(fork.id, fixture.call(namespace)),
    discard: async () => fixture.worktrees.discard(fork.id, fixture.call(namespace)),
    [Symbol.asyncDispose]: () => fixture[Symbol.asyncDispose](),
  };
}

test("a worktree that is thrown away while it is merged takes nothing of the namespace with it", async () => {
  for (const lead of [0, 4]) {
    await using race = await forked();
    const before = treeOnDisk(race.namespace.live);
    const discarded = race.discard().then(
      () => true,
      () => false,
    );
    for (let n = 0; n < lead; n++) await Promise.resolve();
    const merged = await race.merge().then(
      () => true,
      (error: unknown) => {
        if (!(error instanceof AppError) || error.code !== "conflict") throw error;
        return false;
      },
    );
    expect([await discarded, merged].filter(Boolean)).toHaveLength(1);
    const after = treeOnDisk(race.namespace.live);
    if (merged) expect(after.size).toBe(before.size + 1);
    else expect(after).toEqual(before);
  }
});

test("a diff of a worktree that is thrown away meanwhile does not say that the run has deleted everything", async () => {
  await using race = await forked();
  const looked = race.fixture.worktrees.diff(race.fork.id).then(
    ({ changes }) => changes.map(({ path }) => path),
    (error: unknown) => (error instanceof AppError ? error.code : String(error)),
  );
  await race.discard();
  expect([["new"], "conflict"]).toContainEqual(await looked);
});

test("what a run has not begun with yet has no changes to be looked at", async () => {
  await using race = await forked();
  const waits = await race.fixture.addRun(race.namespace.id, { status: "queued" });
  const failure = await race.fixture.worktrees.diff(waits).catch((error: unknown) => error);
  expect(failure).toMatchObject({ code: "conflict", message: expect.stringContaining("not begun") });
  await race.fixture.rows.update(race.fork.id, { status: "preparing", worktree: "making" });
  const made = await race.fixture.worktrees.diff(race.fork.id).catch((error: unknown) => error);
  expect(made).toMatchObject({ code: "conflict", message: expect.stringContaining("not begun") });
});
