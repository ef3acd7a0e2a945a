import { afterEach, beforeAll, expect, test } from "bun:test";
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { NamespaceId } from "../../../src/ids.ts";
import type { Instance } from "../../../src/instance/instance.ts";
import { umount } from "../../../src/kernel/mounts.ts";
import { createSandboxdClient } from "../../../src/sandbox/sandboxd-client.ts";
import { sandboxNames } from "../../../src/sandboxd/names.ts";
import { fateOf, prepareLibrary, stage } from "./stage.ts";
import { until } from "../../fixtures/until.ts";

let lib = "";
beforeAll(() => {
  lib = prepareLibrary();
}, 300_000);

const daemons: Bun.Subprocess[] = [];
afterEach(() => {
  for (const daemon of daemons.splice(0)) daemon.kill("SIGKILL");
});

/** A sandboxd as its own process and a client of it; `kill` is a `kill -9` of that process alone. */
async function startDaemon(instance: Instance, exec: object) {
  const verbose = process.env["VERBOSE"] === "1";
  const daemon = Bun.spawn(
    [process.execPath, join(import.meta.dir, "daemon.ts"), instance.data, lib, JSON.stringify(exec)],
    { stdout: "pipe", stderr: verbose ? "inherit" : "ignore" },
  );
  daemons.push(daemon);
  const first = await daemon.stdout.getReader().read();
  expect(new TextDecoder().decode(first.value)).toBe("ready\n");
  const client = createSandboxdClient({
    path: instance.sockets.sandboxd,
    log: { info() {}, warn() {}, error() {} },
  });
  return {
    client,
    async kill() {
      client.close();
      daemon.kill("SIGKILL");
      await daemon.exited;
    },
  };
}

const EXEC = { pool: 1, memory_mb: 256, pids: 256 };

/** A stage whose own sandboxd has gone, so that others can take its place. */
async function emptyStage() {
  const at = await stage(lib, { exec: EXEC });
  await at.sandboxd.stop("end");
  expect(at.left()).toEqual([]);
  return at;
}

test("after kill -9 a tenant's sandbox works on, is found again, and can be stopped", async () => {
  const at = await emptyStage();
  const namespace = at.namespace();
  const first = await startDaemon(at.instance, EXEC);
  const before = await first.client.call("ensureSandbox", { namespace });
  await first.kill();

  expect(await at.api.shell(before.sandbox, "echo alive >/tmp/x; cat /tmp/x")).toBe("alive\n");
  const second = await startDaemon(at.instance, EXEC);
  expect(await second.client.call("ensureSandbox", { namespace })).toEqual({ ...before, from_pool: false });
  expect(await at.api.shell(before.sandbox, "cat /tmp/x")).toBe("alive\n");
  await second.kill();

  const third = await startDaemon(at.instance, EXEC);
  await third.client.call("stopSandbox", { sandbox: before.sandbox });
  await at.api.ended(before.sandbox);
  expect(at.left().filter((line) => line.includes(before.sandbox))).toEqual([]);
  await third.kill();

  const last = await at.start();
  await last.stop("end");
  at.api.close();
  expect(at.left()).toEqual([]);
}, 60_000);

test("a spare lives on as a spare, and an adopted sandbox that ends is seen to its end", async () => {
  const at = await emptyStage();
  const first = await startDaemon(at.instance, EXEC);
  const spare = await untilSpare(first.client);
  await first.kill();
  const second = await startDaemon(at.instance, EXEC);
  const taken = await second.client.call("ensureSandbox", { namespace: at.namespace() });
  expect(taken).toMatchObject({ sandbox: spare, from_pool: true });
  await second.kill();

  const third = await startDaemon(at.instance, EXEC);
  at.api.send(taken.sandbox, "exit");
  await at.api.ended(taken.sandbox);
  expect(await fateOf(third.client, taken.sandbox)).toEqual({ state: "gone", oom: false });
  expect(at.left().filter((line) => line.includes(taken.sandbox))).toEqual([]);
  await third.kill();

  // A spare made with other limits is of no use any more.
  const other = { ...EXEC, pids: 300 };
  const fourth = await startDaemon(at.instance, other);
  const { sandboxes } = await fourth.client.call("status", {});
  expect(sandboxes.map(({ sandbox }) => sandbox)).not.toContain(spare);
  await fourth.kill();
  await (await at.start()).stop("end");
  at.api.close();
  expect(at.left()).toEqual([]);
}, 60_000);

async function untilSpare(client: ReturnType<typeof createSandboxdClient>) {
  for (;;) {
    const { pool, sandboxes } = await client.call("status", {});
    const [spare] = sandboxes;
    if (pool.ready === 1 && spare !== undefined) return spare.sandbox;
    await Bun.sleep(20);
  }
}

test("kill -9 at any moment of a start under load leaves nothing that the next one does not settle", async () => {
  const at = await emptyStage();
  const namespaces = Array.from({ length: 3 }, () => at.namespace());
  for (const delayMs of [5, 40, 90, 140, 220]) {
    const daemon = await startDaemon(at.instance, EXEC);
    const calls = namespaces.map((namespace) =>
      daemon.client.call("ensureSandbox", { namespace }).catch(() => {}),
    );
    await Bun.sleep(delayMs);
    await daemon.kill();
    await Promise.all(calls);
  }
  const daemon = await startDaemon(at.instance, EXEC);
  for (const namespace of namespaces) {
    writeFileSync(join(at.live(namespace), "whose"), namespace);
    const { sandbox } = await daemon.client.call("ensureSandbox", { namespace });
    expect(await at.api.shell(sandbox, "cat /home/agent/workspace/whose")).toBe(namespace);
  }
  await daemon.kill();
  await (await at.start()).stop("end");
  at.api.close();
  expect(at.left()).toEqual([]);
}, 120_000);

test("what is dead, half made or not to be trusted is removed at the start", async () => {
  const at = await emptyStage();
  const daemon = await startDaemon(at.instance, { ...EXEC, pool: 0 });
  const ensure = (namespace: NamespaceId) => daemon.client.call("ensureSandbox", { namespace });
  const [dead, bare, forged, whole] = await Promise.all(
    Array.from({ length: 4 }, () => ensure(at.namespace())),
  );
  await daemon.kill();
  const namesOf = (it: typeof dead) => sandboxNames(at.instance, it!.sandbox);
  at.api.send(dead!.sandbox, "exit");
  await at.api.ended(dead!.sandbox);
  // Its record claims a tenant that is not there.
  umount(namesOf(bare).workspace, { detach: true });
  const record = JSON.parse(readFileSync(namesOf(forged).record, "utf8")) as {
    process: { startTime: number };
  };
  record.process.startTime += 1;
  writeFileSync(namesOf(forged).record, JSON.stringify(record));

  const sandboxd = await at.start();
  const { sandboxes } = await at.client.call("status", {});
  expect(sandboxes.map(({ sandbox }) => sandbox).filter((id) => id === whole!.sandbox)).toHaveLength(1);
  const ofGone = () =>
    at.left().filter((line) => [dead, bare, forged].some((gone) => line.includes(gone!.sandbox)));
  // One that was still dying at the start is adopted for the moment that it lives on.
  await until(() => ofGone().length === 0);
  expect(await at.api.shell(whole!.sandbox, "echo alive")).toBe("alive\n");
  await sandboxd.stop("end");
  at.api.close();
  expect(at.left()).toEqual([]);
}, 60_000);

test("a stop that keeps sandboxes leaves them for the next start; those of a gone api are removed", async () => {
  const at = await stage(lib, { exec: { ...EXEC, pool: 0 } });
  const namespace = at.namespace();
  const { sandbox } = await at.client.call("ensureSandbox", { namespace });
  await at.sandboxd.stop("keep");
  expect(await at.api.shell(sandbox, "echo alive")).toBe("alive\n");
  const next = await at.start();
  expect((await at.client.call("ensureSandbox", { namespace })).sandbox).toBe(sandbox);
  at.client.close();
  at.api.close();
  await next.stop("keep");
  expect(at.left()).toEqual([]);
  expect(existsSync(at.instance.sockets.sandboxd)).toBe(false);
  expect(readdirSync(at.instance.sandboxd.bundles)).toEqual([]);
}, 60_000);
