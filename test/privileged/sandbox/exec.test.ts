import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { AppError } from "../../../src/errors.ts";
import type { NamespaceId } from "../../../src/ids.ts";
import { TENANT } from "../../../src/kernel/users.ts";
import { realLibrary, stageExec, type ExecStage } from "./stage.ts";
import { amount } from "../../fixtures/amount.ts";
import { until } from "../../fixtures/until.ts";

const MIB = 1024 * 1024;
const CALLS = process.env["COFFERDAM_TEST_LONG"] === undefined ? 300 : amount("CALLS", 2_000);
let lib: string;
let at: ExecStage;
let a: NamespaceId;
let b: NamespaceId;

beforeAll(async () => {
  lib = realLibrary();
  at = await stageExec(lib, { timeout_s: 5 });
  [a, b] = [at.namespace(), at.namespace()];
}, 900_000);

afterAll(async () => {
  expect(await at.end()).toEqual([]);
}, 120_000);

const errorOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    (value) => ({ value }),
    (error: unknown) => error,
  );

describe("a command", () => {
  test("runs as uid 10000 in a directory that has workspace/, and its files are the API's", async () => {
    const result = await at.sh(a, "id -u; pwd; echo data > workspace/f; echo oops >&2; exit 3");
    expect(result).toMatchObject({
      exitCode: 3,
      stdout: "10000\n/home/agent\n",
      stderr: "oops\n",
      stdoutTruncated: false,
      oom: false,
    });
    expect(readFileSync(join(at.live(a), "f"), "utf8")).toBe("data\n");
    expect(statSync(join(at.live(a), "f")).uid).toBe(TENANT.uid);
    writeFileSync(join(at.live(a), "from-outside"), "hello");
    expect((await at.sh(a, "cat workspace/from-outside")).stdout).toBe("hello");
  });

  test("128+n for a signal, 127 for a command that is not there", async () => {
    expect((await at.sh(a, "kill -TERM $$")).exitCode).toBe(143);
    expect((await at.sh(a, "no-such-command")).exitCode).toBe(127);
  });

  test("stdin of 1 MiB arrives whole, and /dev/null without one", async () => {
    const stdin = Buffer.concat(
      Array.from({ length: 16 }, () => crypto.getRandomValues(new Uint8Array(65_536))),
    );
    const sum = await at.sh(a, "sha256sum", { stdin });
    expect(sum.stdout).toBe(`${new Bun.CryptoHasher("sha256").update(stdin).digest("hex")}  -\n`);
    // One that is never read neither hurts the call nor the next one.
    expect((await at.sh(a, "echo done", { stdin })).stdout).toBe("done\n");
    expect((await at.sh(a, "cat; echo end")).stdout).toBe("end\n");
  });

  test("output is cut at 10 MiB and flagged, and the command goes on to its end", async () => {
    const result = await at.exec.exec({
      namespace: a,
      command: `head -c ${11 * MIB} /dev/zero; echo x >&2; touch workspace/went-on; exit 7`,
    });
    expect([result.stdout.length, result.stdoutTruncated, result.stderrTruncated]).toEqual([
      10 * MIB,
      true,
      false,
    ]);
    expect([result.exitCode, Buffer.from(result.stderr).toString()]).toEqual([7, "x\n"]);
    expect(readdirSync(at.live(a))).toContain("went-on");
    const full = await at.exec.exec({ namespace: a, command: `head -c ${10 * MIB} /dev/zero` });
    expect([full.stdout.length, full.stdoutTruncated]).toEqual([10 * MIB, false]);
  }, 120_000);

  test("all bytes pass unchanged", async () => {
    const stdin = Uint8Array.from({ length: 256 }, (_, i) => i);
    const { stdout, stderr } = await at.exec.exec({ namespace: a, command: "tee /dev/stderr", stdin });
    expect([Buffer.from(stdout).equals(stdin), Buffer.from(stderr).equals(stdin)]).toEqual([true, true]);
  });

  test("a command of the greatest length runs", async () => {
    const filler = "#".repeat(128 * 1024 - "echo ok\n".length);
    expect((await at.sh(a, `echo ok\n${filler}`)).stdout).toBe("ok\n");
  });
});

test(`${CALLS} interleaved calls of two namespaces: each gets its own bytes`, async () => {
  await at.sh(a, "echo alpha > workspace/whose");
  await at.sh(b, "echo beta > workspace/whose");
  const names = new Map([
    [a, "alpha"],
    [b, "beta"],
  ]);
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let i = next++; i < CALLS; i = next++) {
      const namespace = i % 2 === 0 ? a : b;
      const name = names.get(namespace)!;
      const command = `cat workspace/whose; echo ${name} ${i} >&2; ${i % 5 === 0 ? "cat; " : ""}exit ${i % 100}`;
      const stdin = i % 5 === 0 ? { stdin: Buffer.from(`${i} `.repeat(i % 300)) } : {};
      const result = await at.sh(namespace, command, stdin);
      const input = i % 5 === 0 ? `${i} `.repeat(i % 300) : "";
      expect([result.stdout, result.stderr, result.exitCode]).toEqual([
        `${name}\n${input}`,
        `${name} ${i}\n`,
        i % 100,
      ]);
    }
  };
  await Promise.all(Array.from({ length: 12 }, worker));
}, 180_000);

describe("nothing of a call is left for the next", () => {
  /** Leaves something behind, shows that it was there, and shows that it is not there in the next call. */
  async function gone(leave: string, look: string, seen: RegExp): Promise<void> {
    const control = await at.sh(a, `${leave}\n${look}`);
    expect(control.stdout).toMatch(seen);
    expect((await at.sh(a, look)).stdout).not.toMatch(seen);
  }

  test("processes, not even daemons that ignore signals", async () => {
    await gone(
      "(trap '' TERM HUP; exec setsid bash -c 'exec -a leftover sleep 100' >/dev/null 2>&1 </dev/null) & " +
        "until cat /proc/[0-9]*/cmdline 2>/dev/null | grep -qa '[l]eftover.100'; do sleep 0.05; done",
      "cat /proc/[0-9]*/cmdline | tr '\\0' ' '",
      /leftover/,
    );
  });

  test("a daemon's writing stops when its call ends", async () => {
    await at.sh(
      a,
      "(while :; do date +%N; sleep 0.02; done > workspace/ticks) & " +
        "until [ -s workspace/ticks ]; do sleep 0.05; done",
    );
    const size = statSync(join(at.live(a), "ticks")).size;
    expect(size).toBeGreaterThan(0);
    await Bun.sleep(300);
    expect(statSync(join(at.live(a), "ticks")).size).toBe(size);
  });

  test("files in /tmp, HOME, /dev/shm and /var/tmp", async () => {
    await gone(
      "for d in /tmp $HOME /dev/shm /var/tmp /run /dev; do echo x > $d/leftover; done 2>/dev/null",
      "ls /tmp $HOME /dev/shm /var/tmp /run /dev",
      /leftover/,
    );
  });

  test("a place beside workspace/", async () => {
    expect((await at.sh(a, "echo x > beside; ls")).stdout).toBe("workspace\n");
  });

  test("System V shared memory, semaphores and queues", async () => {
    await gone(
      "ipcmk -M 4096 -S 1 -Q",
      "cat /proc/sysvipc/shm 2>/dev/null; ipcs -a",
      /\b10000\b|0x[0-9a-f]*[1-9a-f]/,
    );
  });

  test("abstract sockets", async () => {
    const listen = `python3 -c "
import socket, time, subprocess
s = socket.socket(socket.AF_UNIX); s.bind('\\0leftover'); s.listen()
pid = subprocess.Popen(['sleep', '30'], pass_fds=[s.fileno()])
" >/dev/null`;
    const connect = `python3 -c "
import socket
s = socket.socket(socket.AF_UNIX)
try: s.connect('\\0leftover'); print('connected')
except OSError as e: print(e)"`;
    await gone(listen, connect, /connected/);
  });
});

describe("the end of a command", () => {
  const tick = "bash -c 'while :; do date +%N; sleep 0.02; done > workspace/ticks'";

  async function isStill(namespace: NamespaceId): Promise<void> {
    const size = statSync(join(at.live(namespace), "ticks")).size;
    expect(size).toBeGreaterThan(0);
    await Bun.sleep(200);
    expect(statSync(join(at.live(namespace), "ticks")).size).toBe(size);
  }

  test("over its wall clock: 408, all that it started is dead, its files stay, the sandbox too", async () => {
    const sandbox = await at.sandboxOf(a);
    const call = at.sh(a, `trap '' TERM; setsid ${tick} & sleep 60`);
    expect(await errorOf(call)).toMatchObject({ code: "timeout", message: expect.stringContaining("5 s") });
    await isStill(a);
    expect(await at.sandboxOf(a)).toBe(sandbox);
  }, 120_000);

  test("a caller that hangs up kills it", async () => {
    await at.sh(b, "rm -f workspace/ticks");
    const caller = new AbortController();
    const call = errorOf(at.sh(b, `${tick} & sleep 60`, { signal: caller.signal }));
    await until(
      () => readdirSync(at.live(b)).includes("ticks") && statSync(join(at.live(b), "ticks")).size > 0,
    );
    caller.abort();
    expect(await call).toMatchObject({ code: "timeout" });
    await isStill(b);
  }, 120_000);

  test("a fork bomb harms nobody but its own call", async () => {
    const bystander = (async () => {
      for (let i = 0; i < 20; i += 1) {
        expect((await at.sh(b, `echo ${i}`)).stdout).toBe(`${i}\n`);
        await Bun.sleep(100);
      }
    })();
    const bomb = await errorOf(at.sh(a, "bomb() { bomb | bomb & }; bomb; wait; sleep 60"));
    expect(bomb).toMatchObject({ code: "timeout" });
    await bystander;
    expect((await at.sh(a, "echo again")).stdout).toBe("again\n");
  }, 120_000);
});

describe("the end of a sandbox", () => {
  /** Calls in flight in `a` while `b` goes on as if nothing had happened. */
  async function meanwhile(end: () => void | Promise<void>): Promise<unknown[]> {
    const before = await at.sandboxOf(a);
    const calls = [1, 2].map((i) => errorOf(at.sh(a, `echo ${i}; touch workspace/began-${i}; sleep 4`)));
    const bystander = at.sh(b, "sleep 1.5; echo unharmed");
    await until(() => [1, 2].every((i) => readdirSync(at.live(a)).includes(`began-${i}`)));
    await end();
    const outcomes = await Promise.all(calls);
    expect((await bystander).stdout).toBe("unharmed\n");
    expect((await at.sh(a, "rm workspace/began-*; echo replaced")).stdout).toBe("replaced\n");
    expect(await at.sandboxOf(a)).not.toBe(before);
    return outcomes;
  }

  test("out of memory: 137 and oom for each call in it, with its output so far", async () => {
    let hog: Promise<unknown> | undefined;
    const outcomes = await meanwhile(() => {
      hog = errorOf(at.sh(a, `python3 -c "x = b'x' * (2 << 30)"`));
    });
    expect(outcomes).toMatchObject([
      { value: { exitCode: 137, oom: true, stdout: "1\n" } },
      { value: { exitCode: 137, oom: true, stdout: "2\n" } },
    ]);
    expect(await hog).toMatchObject({ value: { exitCode: 137, oom: true } });
  }, 120_000);

  test("the sandbox's process is killed: 502 for each call in it", async () => {
    const sandbox = (await at.sandboxOf(a))!;
    expect(await meanwhile(() => killHostProcesses(sandbox))).toMatchObject([
      { code: "sandbox_lost" },
      { code: "sandbox_lost" },
    ]);
  }, 120_000);

  test("its init is killed: 502 for each call in it", async () => {
    const sandbox = (await at.sandboxOf(a))!;
    const outcomes = await meanwhile(async () => {
      const { runsc } = at.instance.sandboxd;
      const kill = Bun.spawn([join(lib, "runsc"), `--root=${runsc}`, "kill", sandbox, "KILL"]);
      expect(await kill.exited).toBe(0);
    });
    expect(outcomes).toMatchObject([{ code: "sandbox_lost" }, { code: "sandbox_lost" }]);
  }, 120_000);

  test("a tenant cannot kill the init", async () => {
    const sandbox = await at.sandboxOf(a);
    await at.sh(a, "kill -9 -1; kill -9 1; echo x > /proc/1/oom_score_adj");
    expect((await at.sh(a, "echo on")).stdout).toBe("on\n");
    expect(await at.sandboxOf(a)).toBe(sandbox);
  });
});

test("kill -9 of sandboxd during 50 calls: they end well, new sandboxes are refused until it is back", async () => {
  const namespaces = [a, b, at.namespace(), at.namespace(), at.namespace()];
  for (const namespace of namespaces) await at.sh(namespace, "echo warm");
  const sandbox = (await at.sandboxOf(a))!;
  const calls = Array.from({ length: 50 }, (_, i) => at.sh(namespaces[i % 5]!, `sleep 0.5; echo ${i}`));
  await Bun.sleep(200);
  await at.killSandboxd();
  for (const [i, result] of (await Promise.all(calls)).entries()) expect(result.stdout).toBe(`${i}\n`);
  expect((await at.sh(a, "echo still warm")).stdout).toBe("still warm\n");
  const refused = await errorOf(at.sh(at.namespace(), "echo no"));
  expect(refused).toBeInstanceOf(AppError);
  expect(refused).toMatchObject({ code: "unavailable", retryAfterS: 2 });

  // What was lost meanwhile is replaced when it is back.
  killHostProcesses(sandbox);
  await at.restartSandboxd();
  expect((await at.sh(at.namespace(), "echo new")).stdout).toBe("new\n");
  expect((await at.sh(a, "cat workspace/whose")).stdout).toBe("alpha\n");
}, 60_000);

/** Every process of this host that a sandbox's id names: `runsc run`, the sandbox and the gofer. */
function killHostProcesses(sandbox: string): void {
  let killed = 0;
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      if (!readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(sandbox)) continue;
      process.kill(Number(pid), "SIGKILL");
      killed += 1;
    } catch {
      // It ended while it was looked at.
    }
  }
  expect(killed).toBeGreaterThan(0);
}
