import { expect, test } from "bun:test";
import { CommandError, runCommand } from "../../../src/sandboxd/runner.ts";
import { identify, isAlive, killProcess, whenGone } from "../../../src/sandboxd/process.ts";

const failure = async (promise: Promise<unknown>): Promise<CommandError> => {
  const error = await promise.catch((caught: unknown) => caught);
  if (!(error instanceof CommandError)) throw new Error(`no CommandError: ${String(error)}`);
  return error;
};
const sh = (script: string, timeoutMs = 5_000, stdin?: string) =>
  runCommand(["sh", "-c", script], stdin === undefined ? { timeoutMs } : { timeoutMs, stdin });

test("output comes back, input arrives, and the environment is fixed", async () => {
  expect(await sh("echo out; echo err >&2")).toBe("out\n");
  expect(await sh("cat", 5_000, "given")).toBe("given");
  expect(await sh("env | sort | grep -v -e PWD -e SHLVL -e _=")).toBe(
    "LC_ALL=C\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n",
  );
});

test("how a command failed is in the error: status, signal, or that it could not start", async () => {
  const exit = await failure(sh("echo why >&2; exit 3"));
  expect(exit.reason).toEqual({ kind: "exit", code: 3 });
  expect(exit.message).toContain("why");
  expect((await failure(sh("kill -TERM $$"))).reason).toEqual({ kind: "signal", signal: "SIGTERM" });
  expect((await failure(runCommand(["/no/such/program"], { timeoutMs: 1_000 }))).reason).toEqual({
    kind: "spawn",
  });
});

test("at the deadline the whole group dies, also what holds the pipe in the background", async () => {
  const error = await failure(sh("sleep 1000 & echo $! >&2; sleep 1000", 200));
  expect(error.reason).toEqual({ kind: "timeout", ms: 200 });
  // It has closed its pipe, and may be a moment from having ended.
  const background = identify(Number(error.stderr.trim()));
  if (background !== undefined) await whenGone(background, 1);
});

test("endless output is cut, and the command still ends", async () => {
  expect((await sh("head -c 3000000 /dev/zero")).length).toBe(256 * 1024);
});

test("a process is told from a later one with its number", async () => {
  const child = Bun.spawn(["sleep", "1000"]);
  const identity = identify(child.pid)!;
  expect(isAlive(identity)).toBe(true);
  killProcess({ ...identity, startTime: identity.startTime + 1 });
  expect(isAlive(identity)).toBe(true);
  killProcess(identity);
  await child.exited;
  expect(isAlive(identity)).toBe(false);
  expect(identify(child.pid)).toBeUndefined();
});
