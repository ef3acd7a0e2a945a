import { beforeAll, expect, test } from "bun:test";
import { readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { SandboxId } from "../../../src/ids.ts";
import { BOOT_STEPS, type BootStep } from "../../../src/sandboxd/boot.ts";
import { prepareLibrary, refusal, stage } from "./stage.ts";

let lib = "";
beforeAll(() => {
  lib = prepareLibrary();
}, 300_000);

/** The main processes of a sandbox, by what its memory cgroup holds. */
function members(inst: string, id: SandboxId): number[] {
  const [group] = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
    .map((top) => join(top, `cofferdam-${inst}`, id, "cgroup.procs"))
    .filter((file) => statSync(file, { throwIfNoEntry: false }) !== undefined);
  return readFileSync(group!, "utf8").split("\n").filter(Boolean).map(Number);
}

test("a namespace gets one sandbox, in which its files and nothing else are", async () => {
  const at = await stage(lib);
  const namespace = at.namespace();
  writeFileSync(join(at.live(namespace), "note"), "from the host");
  const { sandbox, nonce, from_pool } = await at.client.call("ensureSandbox", { namespace });
  expect(from_pool).toBe(false);
  expect(at.api.nonce(sandbox)).toBe(nonce);
  expect(await at.api.shell(sandbox, "cat /home/agent/workspace/note; ls /home/agent")).toBe(
    "from the hostworkspace\n",
  );
  expect(await at.client.call("ensureSandbox", { namespace })).toEqual({ sandbox, nonce, from_pool: false });
  expect(await at.client.call("inspectSandbox", { sandbox })).toEqual({ state: "running", oom: false });
  expect(at.left()).not.toEqual([]);
  await at.client.call("stopSandbox", { sandbox });
  await at.client.call("stopSandbox", { sandbox });
  expect(await at.client.call("inspectSandbox", { sandbox })).toEqual({ state: "gone", oom: false });
  expect(at.left()).toEqual([]);
  const next = await at.client.call("ensureSandbox", { namespace });
  expect(next.sandbox).not.toBe(sandbox);
  expect(await at.end()).toEqual([]);
}, 60_000);

test("ten namespaces at once get ten sandboxes, two calls for one namespace the same", async () => {
  const at = await stage(lib, { exec: { pool: 2 } });
  const namespaces = Array.from({ length: 10 }, () => at.namespace());
  const both = await Promise.all(
    [...namespaces, ...namespaces].map((namespace) => at.client.call("ensureSandbox", { namespace })),
  );
  const ids = both.map(({ sandbox }) => sandbox);
  expect(new Set(ids).size).toBe(10);
  expect(ids.slice(10)).toEqual(ids.slice(0, 10));
  for (const [index, namespace] of namespaces.entries()) {
    writeFileSync(join(at.live(namespace), "whose"), namespace);
    expect(await at.api.shell(ids[index]!, "cat /home/agent/workspace/whose")).toBe(namespace);
  }
  expect(await at.end()).toEqual([]);
}, 120_000);

test("the pool fills while api listens, and each spare serves one tenant", async () => {
  const at = await stage(lib, { exec: { pool: 2 } });
  const ready = async (count: number) => {
    for (;;) {
      const status = await at.client.call("status", {});
      if (status.pool.ready === count && status.pool.booting === 0) return status;
      await Bun.sleep(20);
    }
  };
  const spares = (await ready(2)).sandboxes;
  expect(spares.map(({ namespace }) => namespace)).toEqual([null, null]);
  const { sandbox, from_pool } = await at.client.call("ensureSandbox", { namespace: at.namespace() });
  expect(from_pool).toBe(true);
  expect(spares.map((spare) => spare.sandbox)).toContain(sandbox);
  expect((await ready(2)).sandboxes.length).toBe(3);
  await at.client.call("stopSandbox", { sandbox });
  expect((await ready(2)).sandboxes.length).toBe(2);
  expect(await at.end()).toEqual([]);
}, 60_000);

test("limits are in force, and running out of memory is told as such", async () => {
  const at = await stage(lib, { exec: { memory_mb: 128 } });
  const [namespace, neighbour] = [at.namespace(), at.namespace()];
  const { sandbox } = await at.client.call("ensureSandbox", { namespace });
  const other = await at.client.call("ensureSandbox", { namespace: neighbour });
  const pids = members(at.instance.inst, sandbox);
  expect(pids.length).toBeGreaterThan(2);
  for (const pid of pids) expect(readFileSync(`/proc/${pid}/oom_score_adj`, "utf8")).toBe("900\n");
  // A control: as much as fits does no harm.
  expect(await at.api.shell(sandbox, "head -c 20000000 /dev/zero | tail -c 20000000 | wc -c")).toBe(
    "20000000\n",
  );
  at.api.send(sandbox, "head -c 200000000 /dev/zero | tail -c 200000000 | wc -c");
  await at.api.ended(sandbox);
  expect(await at.client.call("inspectSandbox", { sandbox })).toEqual({ state: "gone", oom: true });
  expect(await at.client.call("inspectSandbox", { sandbox: other.sandbox })).toEqual({
    state: "running",
    oom: false,
  });
  expect(await at.api.shell(other.sandbox, "echo well")).toBe("well\n");
  const next = await at.client.call("ensureSandbox", { namespace });
  expect(next.sandbox).not.toBe(sandbox);
  expect(await at.end()).toEqual([]);
}, 60_000);

test("a sandbox that ends by itself, or whose sandbox process is killed, is removed and replaced", async () => {
  const at = await stage(lib);
  const namespace = at.namespace();
  const endings: ((sandbox: SandboxId) => void)[] = [
    (sandbox) => at.api.send(sandbox, "exit 3"),
    (sandbox) => process.kill(members(at.instance.inst, sandbox)[1]!, "SIGKILL"),
  ];
  for (const finish of endings) {
    const { sandbox } = await at.client.call("ensureSandbox", { namespace });
    finish(sandbox);
    await at.api.ended(sandbox);
    expect(await at.client.call("inspectSandbox", { sandbox })).toEqual({ state: "gone", oom: false });
    expect(at.left()).toEqual([]);
  }
  expect(await at.end()).toEqual([]);
}, 60_000);

test.each([...BOOT_STEPS])(
  "a boot that fails at the step %s leaves nothing and says so",
  async (step) => {
    let broken: BootStep | undefined = step;
    const at = await stage(lib, {
      onStep: (now) => {
        if (now === broken) throw new Error("broken on purpose");
      },
    });
    const namespace = at.namespace();
    expect(await refusal(at.client.call("ensureSandbox", { namespace }))).toContain("could not be prepared");
    expect(at.left()).toEqual([]);
    broken = undefined;
    await at.client.call("ensureSandbox", { namespace });
    expect(await at.end()).toEqual([]);
  },
  60_000,
);

test("without api's listener nothing is made, and a call is told to come again", async () => {
  const at = await stage(lib, { api: false, exec: { pool: 2 } });
  const namespace = at.namespace();
  expect(await refusal(at.client.call("ensureSandbox", { namespace }))).toContain(
    "does not accept sandboxes",
  );
  expect(at.left()).toEqual([]);
  expect(readdirSync(at.instance.sandboxd.slots)).toEqual([]);
  expect(await at.end()).toEqual([]);
}, 60_000);

test("a second sandboxd for the same instance does not start", async () => {
  const at = await stage(lib);
  expect(await refusal(at.start())).toContain("another sandboxd runs");
  await at.client.call("ensureSandbox", { namespace: at.namespace() });
  expect(await at.end()).toEqual([]);
}, 60_000);

test("doctor looks at the host and boots a sandbox", async () => {
  const at = await stage(lib);
  const { checks } = await at.client.call("doctor", {});
  const found = Object.fromEntries(checks.map(({ name, status }) => [name, status]));
  for (const name of [
    "kernel",
    "landlock",
    "runsc",
    "ip",
    "iptables",
    "cgroups",
    "memory limit",
    "process limit",
    "sandbox",
  ]) {
    expect([name, found[name]]).toEqual([name, "ok"]);
  }
  expect(await at.end()).toEqual([]);
}, 60_000);
