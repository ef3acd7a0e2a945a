import { expect, test } from "bun:test";
import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { syncFileSystem } from "../../../src/kernel/syncfs.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

test("it resolves when the flush has ended, and leaves the event loop alone meanwhile", async () => {
  using scratch = scratchDirectory();
  const fd = openSync(scratch.path, "r");
  for (let file = 0; file < 50; file++) writeFileSync(join(scratch.path, String(file)), "x".repeat(100_000));
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  await Promise.all([syncFileSystem(fd), syncFileSystem(fd), syncFileSystem(fd)]);
  clearInterval(timer);
  closeSync(fd);
  console.log(`${turns} turns of the event loop during the flush`);
  expect(readFileSync(join(scratch.path, "49"), "utf8")).toHaveLength(100_000);
});

test("what is no open file is said", async () => {
  const failed = await syncFileSystem(99_999).catch((error: unknown) => String(error));
  expect(failed).toContain("syncfs");
});

test("many times over, no thread is left", async () => {
  const threads = () => Number(/^Threads:\s*(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]);
  const fd = openSync("/proc/self", "r");
  await syncFileSystem(fd);
  const before = threads();
  for (let round = 0; round < 30; round++) await syncFileSystem(fd);
  closeSync(fd);
  expect(threads()).toBeLessThan(before + 5);
});
