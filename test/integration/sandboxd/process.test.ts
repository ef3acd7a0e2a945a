import { expect, test } from "bun:test";
import { join } from "node:path";

const MODULE = join(import.meta.dir, "../../../src/sandboxd/process.ts");

/** What a program says that has nothing else to do than to wait for the end of another's process. */
async function waitFor(pid: number, call: string): Promise<string> {
  const script = `const { identify, whenGone } = await import(${JSON.stringify(MODULE)});
    const identity = identify(${pid});
    void ${call}.then(() => console.log("gone"));`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdin: "ignore", stdout: "pipe" });
  const said = await child.stdout.text();
  expect(await child.exited).toBe(0);
  return said;
}

test("a process lives until the end that it waits for, unless it only watches", async () => {
  await using sleeper = Bun.spawn(["sleep", "1"]);
  const [waited, watched] = await Promise.all([
    waitFor(sleeper.pid, "whenGone(identity, 10)"),
    waitFor(sleeper.pid, "whenGone(identity, 10, { ref: false })"),
  ]);
  expect([waited, watched]).toEqual(["gone\n", ""]);
});
