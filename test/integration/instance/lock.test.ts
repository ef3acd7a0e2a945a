import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { instanceLayout } from "../../../src/instance/instance.ts";
import { lockInstance } from "../../../src/instance/lock.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "cd-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

function instance() {
  return { ...instanceLayout(dir, "abcd"), lockFile: join(dir, "lock") };
}

/** Holds the lock for a while, as `pid`. */
function holdAs(pid: number, ms: number) {
  const file = join(dir, "lock");
  writeFileSync(file, `pid ${pid}, data ${dir}`);
  return Bun.spawn(["flock", "--no-fork", file, "sleep", String(ms / 1000)]);
}

test("one at a time, and free again when released", () => {
  const first = lockInstance(instance());
  expect(() => lockInstance(instance())).toThrow("runs already");
  first.release();
  lockInstance(instance()).release();
});

test("a dead holder's last child is waited for; a live holder is not", async () => {
  const dead = Bun.spawnSync(["true"]).pid;
  const child = holdAs(dead, 300);
  await Bun.sleep(100);
  lockInstance(instance()).release();
  await child.exited;

  const holder = holdAs(process.pid, 1000);
  await Bun.sleep(100);
  expect(() => lockInstance(instance())).toThrow("runs already");
  holder.kill();
  await holder.exited;
});
