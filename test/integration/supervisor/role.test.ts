import { afterEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createLog } from "../../../src/log.ts";
import { superviseRole, type SupervisedRole } from "../../../src/supervisor/role.ts";

const running: SupervisedRole[] = [];
const top = mkdtempSync(join(tmpdir(), "supervisor-"));

afterEach(async () => {
  for (const role of running.splice(0)) await role.stop(0);
  rmSync(top, { recursive: true, force: true });
});

/** A role that is a shell script; descriptor 3 is its link. */
function supervise(
  script: string,
  options: { secret?: string | (() => Uint8Array); watchdogMs?: number } = {},
) {
  const output: string[] = [];
  const ready: Map<string, string>[] = [];
  const waiting: (() => void)[] = [];
  const givenUp = Promise.withResolvers<string>();
  const logged: { message: string }[] = [];
  const { secret } = options;
  const role = superviseRole({
    name: "test",
    process: {
      command: ["/bin/bash", "-c", script],
      env: { PATH: "/usr/bin:/bin", TOP: top },
      secret: secret === undefined ? null : typeof secret === "string" ? () => Buffer.from(secret) : secret,
    },
    log: createLog("serve", (line) => logged.push(JSON.parse(line))),
    onOutput: (text) => output.push(text),
    onReady(notices) {
      ready.push(new Map(notices));
      waiting.splice(0).forEach((wake) => wake());
    },
    onGivenUp: givenUp.resolve,
    ...(options.watchdogMs === undefined ? {} : { watchdogMs: options.watchdogMs }),
  });
  running.push(role);
  /** Once it has been ready so many times. */
  async function readyTimes(count: number): Promise<void> {
    while (ready.length < count) await new Promise<void>((resolve) => waiting.push(resolve));
  }
  return { role, output, ready, readyTimes, givenUp: givenUp.promise, logged };
}

test("passes a secret by the link alone, reads notices, and forwards whole lines", async () => {
  const script = `
    read -r -N 8 secret <&3
    printf 'one %s\\ntw' "$secret" >&2; printf 'o\\n' >&2
    [[ "$(tr '\\0' ' ' </proc/$$/environ)$*" != *s3cr3t12* ]] && echo absent >&2
    printf 'X_LISTEN=127.0.0.1:1\\nREADY=1\\n' >&3
    exec sleep 100`;
  const { role, output, ready, readyTimes } = supervise(script, { secret: "s3cr3t12" });
  await readyTimes(1);
  expect(ready[0]?.get("X_LISTEN")).toBe("127.0.0.1:1");
  await role.stop(1000);
  for (const text of output) expect(text).toEndWith("\n");
  expect(output.join("")).toBe("one s3cr3t12\ntwo\nabsent\n");
  expect(role.pid()).toBeNull();
});

test("a secret that is away for a moment, or for good, ends nothing else", async () => {
  let away = true;
  const secret = () => {
    if (away) throw new Error("ENOENT: master.key");
    return Buffer.from("ok");
  };
  const { readyTimes, logged, role } = supervise(`echo READY=1 >&3; exec sleep 100`, { secret });
  while (logged.length === 0) await Bun.sleep(5);
  expect(logged[0]).toMatchObject({ message: "a role cannot be started", of: "test" });
  away = false;
  await readyTimes(1);
  away = true;
  process.kill(role.pid() ?? 0, "SIGKILL");
  const other = supervise(`exec sleep 100`, { secret });
  expect(await other.givenUp).toBe("test does not start; its messages above say why");
}, 120_000);

test("a role that dies is started again, with its secret", async () => {
  const script = `read -r -N 2 secret <&3; [ "$secret" = ok ] || exit 3; echo READY=1 >&3; exec sleep 100`;
  const { role, readyTimes, logged } = supervise(script, { secret: "ok" });
  const pids = new Set<number | null>();
  for (let times = 1; times <= 3; times++) {
    await readyTimes(times);
    pids.add(role.pid());
    process.kill(role.pid() ?? 0, "SIGKILL");
  }
  await readyTimes(4);
  pids.add(role.pid());
  expect(pids.size).toBe(4);
  expect(logged).toHaveLength(3);
  expect(logged[0]).toMatchObject({ message: "a role died", of: "test", signal: "SIGKILL", was_ready: true });
});

test("a role that never comes up is given up, with its own words shown", async () => {
  const { givenUp, output, role } = supervise(
    `echo start >>$TOP.starts; echo 'the port is taken' >&2; exit 1`,
  );
  expect(await givenUp).toContain("test does not start");
  expect(output.join("")).toBe("the port is taken\n".repeat(3));
  await role.stop(1000);
  expect(readFileSync(`${top}.starts`, "utf8")).toBe("start\n".repeat(3));
  rmSync(`${top}.starts`);
});

test("a role whose configuration is wrong is not tried again, also when it was ready before", async () => {
  const { givenUp } = supervise(`echo start >>$TOP.starts; echo READY=1 >&3; exit 2`);
  expect(await givenUp).toContain("test cannot go on");
  expect(readFileSync(`${top}.starts`, "utf8")).toBe("start\n");
  rmSync(`${top}.starts`);
});

test("a role that falls silent is killed and started again; one that shows life is not", async () => {
  // Longer than a shell takes to start on a busy machine: one that never comes up is given up.
  const watchdogMs = 700;
  const silent = supervise(`echo READY=1 >&3; exec sleep 100`, { watchdogMs });
  await silent.readyTimes(2);
  expect(silent.logged[0]?.message).toBe("a role fell silent and is killed");
  const script = `echo READY=1 >&3; exec 9<> <(:); until read -t 0.05 -u 9; do echo WATCHDOG=1 >&3; done`;
  const lively = supervise(script, { watchdogMs });
  await lively.readyTimes(1);
  const pid = lively.role.pid();
  // It is longer than that by now.
  await silent.readyTimes(4);
  expect(lively.role.pid()).toBe(pid);
  expect(lively.logged).toEqual([]);
});

test("a role that said that its start takes longer is waited for", async () => {
  const slow = `echo EXTEND_TIMEOUT_USEC=60000000 >&3; sleep 1; echo READY=1 >&3; exec sleep 100`;
  const { readyTimes, logged } = supervise(slow, { watchdogMs: 500 });
  await readyTimes(1);
  expect(logged).toEqual([]);
});

test("a reload reaches a role that is still starting when it is ready, and a later one at once", async () => {
  const script = `
    touch $TOP.started; sleep 0.3
    trap 'echo reloaded >&2' HUP
    printf 'READY=1\\n' >&3
    while :; do sleep 0.05; done`;
  const { role, output, ready } = supervise(script);
  while (!existsSync(`${top}.started`)) await Bun.sleep(5);
  role.reload();
  role.reload();
  while (output.length < 1) await Bun.sleep(5);
  role.reload();
  while (output.length < 2) await Bun.sleep(5);
  await role.stop(0);
  expect(output).toEqual(["reloaded\n", "reloaded\n"]);
  expect(ready.length).toBe(1);
});

test("stop ends a role gently, and for good", async () => {
  const gentle = supervise(
    `trap 'echo bye >&2; exit 0' TERM; echo READY=1 >&3; while :; do sleep 0.01; done`,
  );
  await gentle.readyTimes(1);
  await gentle.role.stop(60_000);
  expect(gentle.output).toEqual(["bye\n"]);
  expect(gentle.logged).toEqual([]);
});

test("stop ends a role that does not listen, too", async () => {
  const deaf = supervise(`trap '' TERM; echo READY=1 >&3; while :; do sleep 0.01; done`);
  await deaf.readyTimes(1);
  const pid = deaf.role.pid();
  await deaf.role.stop(50);
  expect(existsSync(`/proc/${pid}`)).toBe(false);
  expect(deaf.logged.map(({ message }) => message)).toEqual(["a role did not stop in time and is killed"]);
});

test("stop during the pause before a restart starts nothing more", async () => {
  const { role, readyTimes, ready } = supervise(`echo READY=1 >&3; exit 1`);
  await readyTimes(2);
  await role.stop(1000);
  const count = ready.length;
  await Bun.sleep(300);
  expect(ready.length).toBe(count);
});
