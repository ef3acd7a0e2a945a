import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { instanceLayout } from "../../../src/instance/instance.ts";
import { lockInstance } from "../../../src/instance/lock.ts";
import { until } from "../../fixtures/until.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "cd-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

function instance() {
  return { ...instanceLayout(dir, "abcd"), lockFile: join(dir, "lock") };
}

/** Holds the lock for a while, as `pid`; it does when this resolves. */
async function holdAs(pid: number, ms: number) {
  const file = join(dir, "lock");
  writeFileSync(file, `pid ${pid}, data ${dir}`);
  const child = Bun.spawn(["flock", "--no-fork", file, "sleep", String(ms / 1000)]);
  await until(() => readFileSync(`/proc/${child.pid}/comm`, "utf8") === "sleep\n");
  return child;
}

test("one at a time, and free again when released", () => {
  const first = lockInstance(instance());
  expect(() => lockInstance(instance())).toThrow("runs already");
  first.release();
  lockInstance(instance()).release();
});

test("a dead holder's last child is waited for; a live holder is not", async () => {
  const dead = Bun.spawnSync(["true"]).pid;
  const child = await holdAs(dead, 1_000);
  lockInstance(instance()).release();
  await child.exited;

  const holder = await holdAs(process.pid, 60_000);
  expect(() => lockInstance(instance())).toThrow("runs already");
  holder.kill();
  await holder.exited;
});
