import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { configSchema, type Config } from "../../../src/config/schema.ts";
import { namespaceId, type NamespaceId } from "../../../src/ids.ts";
import { createLog } from "../../../src/log.ts";
import { listenForSandboxes, type Connections } from "../../../src/sandbox/connections.ts";
import { createExec, type Exec } from "../../../src/sandbox/exec.ts";
import type { ExecMeter } from "../../../src/sandbox/meter.ts";
import { createSandboxdClient, type SandboxdClient } from "../../../src/sandbox/sandboxd-client.ts";
import { FakeSandboxd } from "../../fixtures/fake-sandboxd.ts";
import { until } from "../../fixtures/until.ts";

const log = createLog("test", () => {});
const [a, b] = [namespaceId.make(), namespaceId.make()];
let dir: string;
let connections: Connections;
let sandboxd: FakeSandboxd;
let client: SandboxdClient;
let exec: Exec;

function start(settings: Partial<Config["exec"]> = {}, meter?: ExecMeter): void {
  exec = createExec({
    config: configSchema.parse({ exec: { timeout_s: 1, output_mb: 1, ...settings } }),
    sandboxd: client,
    connections,
    log,
    ...(meter === undefined ? {} : { meter }),
  });
}

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "cd-"));
  connections = listenForSandboxes({ path: join(dir, "sb"), trustedUid: 0, peerUid: () => 0, log });
  sandboxd = new FakeSandboxd({ path: join(dir, "sd"), sandboxesPath: join(dir, "sb") });
  sandboxd.start();
  client = createSandboxdClient({ path: join(dir, "sd"), log });
  start();
});

afterEach(async () => {
  await exec.close();
  client.close();
  sandboxd.stop();
  connections.close();
  rmSync(dir, { recursive: true });
});

const run = async (namespace: NamespaceId, command: string, signal?: AbortSignal) => {
  exec.check({ command });
  return exec.turn(namespace, signal, () => exec.exec({ namespace, command, signal }));
};
const errorOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    (value) => ({ value }),
    (error: unknown) => error,
  );
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

describe("a command", () => {
  test("its output, its errors and its exit code", async () => {
    const result = await run(a, "out hello\nerr oops\nexit 3");
    expect({ ...result, stdout: text(result.stdout), stderr: text(result.stderr) }).toMatchObject({
      exitCode: 3,
      stdout: "hello\n",
      stderr: "oops\n",
      stdoutTruncated: false,
      stderrTruncated: false,
      oom: false,
    });
    expect(Number.isInteger(result.durationMs)).toBe(true);
  });

  test("stdin of 1 MiB arrives whole; one byte more is refused", async () => {
    const stdin = crypto.getRandomValues(new Uint8Array(65_536));
    const all = Buffer.concat(Array.from({ length: 16 }, () => stdin));
    const { stdout } = await exec.exec({ namespace: a, command: "cat", stdin: all });
    expect(all.equals(stdout)).toBe(true);
    const more = errorOf(exec.exec({ namespace: a, command: "cat", stdin: new Uint8Array(all.length + 1) }));
    expect(await more).toMatchObject({ code: "too_large" });
  });

  test("output over the cap is cut and flagged, up to the cap it is not", async () => {
    const mib = 1024 * 1024;
    const full = await run(a, `fill ${mib}`);
    expect([full.stdout.length, full.stdoutTruncated]).toEqual([mib, false]);
    const over = await run(a, `fill ${mib + 1}\nerr fine\nexit 4`);
    expect([over.stdout.length, over.stdoutTruncated, over.stderrTruncated]).toEqual([mib, true, false]);
    expect([text(over.stderr), over.exitCode]).toEqual(["fine\n", 4]);
  });

  test("a NUL is bad input, a command over its limit is too large, an empty one runs", async () => {
    expect(await errorOf(run(a, "out a\0b"))).toMatchObject({ code: "bad_input" });
    expect(await errorOf(run(a, "é".repeat(64 * 1024 + 1)))).toMatchObject({ code: "too_large" });
    expect((await run(a, "")).exitCode).toBe(0);
  });

  test("calls of two namespaces never see each other's bytes", async () => {
    start({ queue: 400 });
    const calls = Array.from({ length: 400 }, async (_, i) => {
      const namespace = i % 2 === 0 ? a : b;
      const { stdout, stderr, exitCode } = await run(
        namespace,
        `out ${namespace} ${i}\nsleep ${i % 3}\nerr ${i} ${namespace}\nexit ${i % 256}`,
      );
      expect([text(stdout), text(stderr), exitCode]).toEqual([
        `${namespace} ${i}\n`,
        `${i} ${namespace}\n`,
        i % 256,
      ]);
    });
    await Promise.all(calls);
    expect(sandboxd.of(a)![0]).not.toBe(sandboxd.of(b)![0]);
  });
});

test("a reloaded configuration holds for the calls that come after", async () => {
  const before = errorOf(run(a, "sleep 60000"));
  await until(() => sandboxd.of(a)?.[1].init.runs === 1);
  exec.reload(
    configSchema.parse({ exec: { timeout_s: 30, output_mb: 2, command_kb: 1, per_namespace: 2, queue: 0 } }),
  );
  const after = run(a, `sleep 1200\nfill ${2 * 1024 * 1024}`);
  expect(await errorOf(run(a, "out third"))).toMatchObject({ code: "busy" });
  expect(await errorOf(run(a, "x".repeat(1025)))).toMatchObject({ code: "too_large" });
  expect(await before).toMatchObject({ code: "timeout" });
  expect((await after).stdout.length).toBe(2 * 1024 * 1024);
});

test("the meter is told how each command waited and ended, and where its sandbox came from", async () => {
  const ended: string[] = [];
  const opened: string[] = [];
  let waited = 0;
  const meter: ExecMeter = {
    waited: (seconds) => void (waited += Number(seconds >= 0)),
    opened: (source, seconds) => void opened.push(seconds > 0 ? source : "in no time"),
    ended: (outcome, seconds) => void ended.push(`${outcome} ${seconds === null ? "untimed" : "timed"}`),
  };
  start({ per_namespace: 1, queue: 0 }, meter);
  await run(a, "out fine");
  await run(a, "exit 3");
  await errorOf(run(a, "sleep 60000"));
  const gone = new AbortController();
  const hangsUp = errorOf(run(a, "sleep 60000", gone.signal));
  await until(() => sandboxd.of(a)?.[1].init.runs === 4);
  await errorOf(run(a, "out one too many"));
  gone.abort();
  await hangsUp;
  sandboxd.stop();
  await errorOf(run(b, "out without sandboxd"));
  expect(ended).toEqual([
    "zero timed",
    "nonzero timed",
    "timeout untimed",
    "refused untimed",
    "hung_up untimed",
    "refused untimed",
  ]);
  expect(opened).toEqual(["boot"]);
  expect(waited).toBe(5);
});

describe("the end of a command", () => {
  test("over its wall clock: killed, and 408", async () => {
    expect(await errorOf(run(a, "out started\nsleep 60000"))).toMatchObject({ code: "timeout" });
    expect(exec.stats()).toMatchObject({ running: 0, warm: 1 });
    expect((await run(a, "out again")).exitCode).toBe(0);
    expect(sandboxd.booted).toBe(1);
  });

  test("a caller that hangs up kills it", async () => {
    const caller = new AbortController();
    const call = errorOf(run(a, "sleep 60000", caller.signal));
    await until(() => sandboxd.of(a)?.[1].init.runs === 1);
    caller.abort();
    expect(await call).toMatchObject({
      code: "timeout",
      message: "The caller hung up, so the command was stopped.",
    });
    expect(exec.stats().running).toBe(0);
  });

  test("a caller that hangs up while the sandbox boots is let go, and the sandbox stays for the next", async () => {
    sandboxd.delayMs = 50;
    const caller = new AbortController();
    const call = errorOf(run(a, "out never", caller.signal));
    await Bun.sleep(10);
    caller.abort();
    expect(await call).toMatchObject({ code: "timeout" });
    expect(text((await run(a, "out next")).stdout)).toBe("next\n");
    expect([sandboxd.booted, sandboxd.of(a)![1].init.runs]).toEqual([1, 1]);
  });

  test("a kill without an answer stops the sandbox: 408 for it, sandbox_lost for the others", async () => {
    const stubborn = errorOf(run(a, "ignore-kill\nsleep 60000"));
    // 1 s of wall clock and 2 s of grace; the other one starts so late that its own clock plays no part.
    await Bun.sleep(2_300);
    const other = errorOf(run(a, "sleep 60000"));
    expect(await stubborn).toMatchObject({ code: "timeout" });
    expect(await other).toMatchObject({ code: "sandbox_lost" });
    expect(sandboxd.of(a)).toBeUndefined();
  });
});

describe("the end of a sandbox", () => {
  test("out of memory: each call in flight is 137 with oom and its output so far", async () => {
    const calls = ["one", "two"].map((name) => run(a, `out ${name}\nsleep 60000`));
    const bystander = run(b, "sleep 300\nout unharmed");
    await until(() => sandboxd.of(a)?.[1].init.runs === 2);
    await Bun.sleep(20);
    sandboxd.crash(a, { oom: true });
    const results = await Promise.all(calls);
    expect(results.map(({ exitCode, oom }) => [exitCode, oom])).toEqual([
      [137, true],
      [137, true],
    ]);
    expect(results.map(({ stdout }) => text(stdout))).toEqual(["one\n", "two\n"]);
    expect(text((await bystander).stdout)).toBe("unharmed\n");
    expect(text((await run(a, "out replaced")).stdout)).toBe("replaced\n");
    expect(sandboxd.booted).toBe(3);
  });

  test.each(["die", "garbage", "flood"])(
    "%s in the middle of a call: sandbox_lost, and a new one for the next",
    async (how) => {
      const other = errorOf(run(a, "sleep 60000"));
      await until(() => sandboxd.of(a)?.[1].init.runs === 1);
      expect(await errorOf(run(a, `out x\n${how}\nsleep 500`))).toMatchObject({ code: "sandbox_lost" });
      expect(await other).toMatchObject({ code: "sandbox_lost" });
      expect(text((await run(a, "out next")).stdout)).toBe("next\n");
      expect(sandboxd.booted).toBe(2);
    },
  );

  test("with sandboxd away: the warm one goes on, a new one is unavailable, and both work when it is back", async () => {
    await run(a, "out warm");
    sandboxd.stop();
    expect(text((await run(a, "out on")).stdout)).toBe("on\n");
    expect(await errorOf(run(b, "out no"))).toMatchObject({ code: "unavailable", retryAfterS: 2 });
    const lost = errorOf(run(a, "die"));
    expect(await lost).toMatchObject({ code: "sandbox_lost" });
    expect(await errorOf(run(a, "out no"))).toMatchObject({ code: "unavailable" });
    sandboxd.start();
    expect(text((await run(a, "out back")).stdout)).toBe("back\n");
    expect(text((await run(b, "out back")).stdout)).toBe("back\n");
  });

  test("one that does not get ready is stopped and named", async () => {
    sandboxd.wrongNonce = "f".repeat(64);
    expect(await errorOf(run(a, "out no"))).toMatchObject({ code: "internal" });
    expect(sandboxd.of(a)).toBeUndefined();
    sandboxd.wrongNonce = undefined;
    expect((await run(a, "out yes")).exitCode).toBe(0);
  });
});

describe("the warm set", () => {
  test("concurrent first calls share one sandbox", async () => {
    sandboxd.delayMs = 10;
    await Promise.all([1, 2, 3, 4].map((i) => run(a, `out ${i}`)));
    expect(sandboxd.booted).toBe(1);
  });

  test("a failed start fails those who wait for it, not the next", async () => {
    sandboxd.delayMs = 10;
    sandboxd.failNext = { code: "unavailable", detail: "No memory for a sandbox." };
    for (const error of await Promise.all([errorOf(run(a, "")), errorOf(run(a, ""))])) {
      expect(error).toMatchObject({ code: "unavailable", message: "No memory for a sandbox." });
    }
    expect((await run(a, "")).exitCode).toBe(0);
  });

  test("keeps at most `warm`: the least recently used idle one goes", async () => {
    start({ warm: 2 });
    const namespaces = [a, b, namespaceId.make(), namespaceId.make()];
    const busy = run(a, "sleep 200\nout still here");
    await run(b, "");
    await run(namespaces[2]!, "");
    await until(() => sandboxd.of(b) === undefined);
    await run(namespaces[3]!, "");
    await until(() => sandboxd.of(namespaces[2]!) === undefined);
    expect(text((await busy).stdout)).toBe("still here\n");
    expect(sandboxd.of(namespaces[3]!)).toBeDefined();
  });

  test("stops what is idle when sandboxd says that memory is short", async () => {
    await run(a, "");
    sandboxd.availableBytes = 1024;
    await until(() => sandboxd.of(a) === undefined);
  });

  test("stopNamespace ends what runs there and nothing else", async () => {
    const mine = errorOf(run(a, "sleep 60000"));
    const other = run(b, "sleep 50\nout fine");
    await until(() => sandboxd.of(a)?.[1].init.runs === 1);
    await exec.stopNamespace(a);
    expect(sandboxd.of(a)).toBeUndefined();
    expect(await mine).toMatchObject({ code: "sandbox_lost" });
    expect(text((await other).stdout)).toBe("fine\n");
  });

  test("close lets calls end, refuses new ones and stops the sandboxes", async () => {
    const call = run(a, "sleep 50\nout done");
    await until(() => exec.stats().warm === 1 && sandboxd.of(a)?.[1].init.runs === 1);
    const closed = exec.close();
    expect(await errorOf(run(a, ""))).toMatchObject({ code: "unavailable" });
    expect(text((await call).stdout)).toBe("done\n");
    await closed;
    expect(sandboxd.of(a)).toBeUndefined();
  });
});
