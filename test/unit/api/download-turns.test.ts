import { expect, test } from "bun:test";
import { createDownloadTurns } from "../../../src/api/download-turns.ts";

const limits = { concurrency: 2, perNamespace: 2, queue: 10, maxWaitMs: 10_000 };
const nobody = new AbortController().signal;
const start = () => createDownloadTurns({ limits, bytesPerSecond: 1_000, windowMs: 20 });

test("who takes nothing keeps its place while nobody else wants it, and then loses it", async () => {
  const turns = start();
  const fast = await turns.admit("fast", nobody);
  const slow = await turns.admit("slow", nobody);
  slow.signal.addEventListener("abort", slow.release);
  const taking = setInterval(() => fast.took(1_000), 2);
  await Bun.sleep(60);
  expect(slow.signal.aborted).toBe(false);
  const other = await turns.admit("other", nobody);
  expect(slow.signal.aborted).toBe(true);
  expect(String(slow.signal.reason)).toContain("too slow while others waited");
  expect(fast.signal.aborted).toBe(false);
  clearInterval(taking);
  fast.release();
  other.release();
});

test("of two that are too slow one goes at a time, the slower one first", async () => {
  const turns = start();
  const [dead, trickling] = [await turns.admit("a", nobody), await turns.admit("b", nobody)];
  const trickle = setInterval(() => trickling.took(1), 2);
  dead.signal.addEventListener("abort", dead.release);
  const next = await turns.admit("c", nobody);
  expect([dead.signal.aborted, trickling.signal.aborted]).toEqual([true, false]);
  clearInterval(trickle);
  next.release();
  trickling.release();
});
