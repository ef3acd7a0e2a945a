import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Instance } from "../../../src/instance/instance.ts";
import { roleUser } from "../../../src/kernel/users.ts";
import { createInstance, ensureRunDirectories, publishConfig } from "../../../src/instance/setup.ts";
import { createGatewayClient } from "../../../src/runs/gateway-client.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { Receiver } from "../../fixtures/notify-receiver.ts";
import { ensureUsers } from "../../fixtures/users.ts";

const DATA = "/scratch/gateway/data";
const MAIN = join(import.meta.dir, "../../../src/main.ts");
const quiet = { info() {}, warn() {}, error() {} };
const made: { instance?: Instance; notices?: Receiver } = {};

beforeAll(async () => {
  ensureUsers();
  made.instance = createInstance(DATA);
  ensureRunDirectories(made.instance);
  publishConfig(made.instance, null);
  made.notices = await Receiver.listen("/run/notify-test");
});

afterAll(() => made.notices?.close());

function start(env: Record<string, string> = {}) {
  return Bun.spawn([process.execPath, MAIN, "gateway", "--data", DATA], {
    env: { PATH: "/usr/bin:/bin", NOTIFY_SOCKET: "/run/notify-test", WATCHDOG_USEC: "100000", ...env },
    stdin: "ignore",
    stdout: "inherit",
    stderr: "pipe",
  });
}

function as(user: string, command: string[]) {
  return Bun.spawnSync(["setpriv", `--reuid=${user}`, `--regid=${user}`, "--clear-groups", ...command]);
}

test("it tells systemd what it does, answers its health, and stops when asked", async () => {
  const { instance, notices } = made as Required<typeof made>;
  const gateway = start({ BUN_OPTIONS: "", SECRET_OF_THE_HOST: "leaked" });
  await notices.until("READY=1");
  await notices.until("WATCHDOG=1");
  await notices.until("WATCHDOG=1");

  const client = createGatewayClient({ path: instance.sockets.gateway, log: quiet });
  expect(await client.call("health", {})).toEqual({});
  // Without its key it lets nobody in, and says so.
  expect(await failureOf(client.call("publicKey", {}))).toContain("started without its key");
  client.close();

  const status = readFileSync(`/proc/${gateway.pid}/status`, "utf8");
  const { uid } = roleUser("cofferdam-gw");
  expect(status).toContain(`Uid:\t${uid}\t${uid}\t${uid}\t${uid}\n`);
  expect(status).toContain("CapEff:\t0000000000000000\n");
  expect(readFileSync(`/proc/${gateway.pid}/cmdline`, "utf8")).toStartWith("cofferdam: gateway\0");
  const environ = readFileSync(`/proc/${gateway.pid}/environ`, "utf8");
  expect(environ).toContain("NOTIFY_SOCKET=");
  expect(environ).not.toContain("leaked");
  expect(environ).not.toContain("BUN_OPTIONS");

  gateway.kill("SIGHUP");
  await notices.until("RELOADING=1");
  await notices.until("READY=1");
  await notices.until("WATCHDOG=1");

  gateway.kill("SIGTERM");
  await notices.until("STOPPING=1");
  expect(await gateway.exited).toBe(0);
});

test("another process of its user can't read its memory or its environment", async () => {
  const { notices } = made as Required<typeof made>;
  const gateway = start();
  await notices.until("READY=1");
  const read = (pid: number) => as("cofferdam-gw", ["head", "-c1", `/proc/${pid}/environ`]);
  expect(read(gateway.pid).exitCode).not.toBe(0);
  const other = Bun.spawn([
    "setpriv",
    "--reuid=cofferdam-gw",
    "--regid=cofferdam-gw",
    "--clear-groups",
    "sleep",
    "100",
  ]);
  while (!readFileSync(`/proc/${other.pid}/cmdline`, "utf8").startsWith("sleep")) await Bun.sleep(1);
  expect(read(other.pid).exitCode).toBe(0);
  for (const child of [other, gateway]) {
    child.kill();
    await child.exited;
  }
});

test("told that it is confined when it is not, it does not start", async () => {
  // As if confining had been done by somebody else: the marker is set, and nothing is confined.
  const gateway = start({ COFFERDAM_CONFINING: "1" });
  expect(await gateway.exited).toBe(3);
  const message = await gateway.stderr.text();
  expect(message).toStartWith("cofferdam: gateway does not start, since it cannot be confined:");
  expect(message.trim()).not.toContain("\n");
});

test("without root it says who has to start it", async () => {
  const { exitCode, stderr } = as("cofferdam", [process.execPath, MAIN, "gateway", "--data", DATA]);
  expect(exitCode).toBe(3);
  expect(stderr.toString()).toContain("must be started as root, by serve or by its unit");
});
