import { expect, test } from "bun:test";
import { AppError } from "../../../src/errors.ts";
import { runsFixture } from "../../fixtures/runs.ts";
import { until } from "../../fixtures/until.ts";

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
