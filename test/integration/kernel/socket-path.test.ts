import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { clearSocketPath } from "../../../src/kernel/socket-path.ts";

const dir = mkdtempSync(join(tmpdir(), "cd-"));
afterAll(() => rmSync(dir, { recursive: true }));

test("a live process's socket is not taken", () => {
  const path = join(dir, "live");
  const listener = Bun.listen({ unix: path, socket: { data() {} } });
  expect(() => clearSocketPath(path, 100)).toThrow("Another process listens on");
  expect(existsSync(path)).toBe(true);
  listener.stop(true);
});

test("one that is ending is waited for", async () => {
  const path = join(dir, "ending");
  const script = `Bun.listen({ unix: ${JSON.stringify(path)}, socket: { data() {} } }); setTimeout(() => process.kill(process.pid, "SIGKILL"), 400);`;
  const ending = Bun.spawn([process.execPath, "-e", script], { stdout: "ignore", stderr: "ignore" });
  while (!existsSync(path)) await Bun.sleep(5);
  clearSocketPath(path);
  expect(existsSync(path)).toBe(false);
  await ending.exited;
});

test("what a dead process left is removed, and nothing at all is well too", async () => {
  const path = join(dir, "dead");
  const script = `Bun.listen({ unix: ${JSON.stringify(path)}, socket: { data() {} } }); process.kill(process.pid, "SIGKILL");`;
  await Bun.spawn([process.execPath, "-e", script], { stdout: "ignore", stderr: "ignore" }).exited;
  expect(existsSync(path)).toBe(true);
  clearSocketPath(path);
  expect(existsSync(path)).toBe(false);
  clearSocketPath(path);
});
