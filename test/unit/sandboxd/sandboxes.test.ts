import { expect, test } from "bun:test";
import { namespaceId, sandboxId, type NamespaceId, type SandboxId } from "../../../src/ids.ts";
import { instanceLayout } from "../../../src/instance/instance.ts";
import type { Sandbox } from "../../../src/sandboxd/boot.ts";
import { sandboxNames } from "../../../src/sandboxd/names.ts";
import { createPool } from "../../../src/sandboxd/pool.ts";
import { createSandboxes } from "../../../src/sandboxd/sandboxes.ts";

const silent = { info() {}, warn() {}, error() {} };
const instance = instanceLayout("/data", "abcd");
const tick = () => new Promise((resolve) => setTimeout(resolve, Math.random() * 3));

/** A host in memory: what runs, whose volume is where, and every tenant that a sandbox ever had. */
function fakeHost(random: () => number = () => 1, limit = 100) {
  const running = new Map<SandboxId, { end: () => void; oom: boolean }>();
  const mounted = new Map<SandboxId, NamespaceId>();
  const tenants = new Map<SandboxId, Set<NamespaceId>>();
  const faults: string[] = [];
  const sometimes = (chance: number, what: string) => {
    if (random() < chance) throw new Error(what);
  };

  const host = {
    checkVolume: () => sometimes(0.05, "no volume"),
    attach({ names: { id } }: Sandbox, namespace: NamespaceId) {
      const all = tenants.get(id) ?? new Set();
      tenants.set(id, all.add(namespace));
      if (all.size > 1) faults.push(`${id} had two tenants`);
      if (!running.has(id)) faults.push(`${id} was given away dead`);
      sometimes(0.05, "no mount");
      for (const [other, has] of mounted)
        if (has === namespace) faults.push(`${namespace} is in ${other} and ${id}`);
      mounted.set(id, namespace);
    },
    isAlive: ({ names: { id } }: Sandbox) => running.has(id),
    fate: ({ names: { id } }: Sandbox) => ({ oom: oomed.has(id) }),
    async teardown({ names: { id } }: Sandbox) {
      await tick();
      running.get(id)?.end();
      standing.delete(id);
      mounted.delete(id);
      sometimes(0.05, "busy");
    },
    async makeStand({ names: { id } }: Sandbox) {
      await tick();
      sometimes(0.05, "no standstill");
      if (!running.has(id)) throw new Error("gone");
      if (standing.has(id)) faults.push(`${id} was made to stand twice`);
      standing.add(id);
    },
    async letGo({ names: { id } }: Sandbox) {
      await tick();
      sometimes(0.05, "no answer");
      if (!running.has(id)) throw new Error("gone");
      if (!standing.delete(id)) faults.push(`${id} was let go and did not stand`);
    },
    memoryBytes: () => 1,
    dirtyBytes: () => 0,
  };
  const oomed = new Set<SandboxId>();
  const standing = new Set<SandboxId>();

  async function boot(): Promise<Sandbox> {
    await tick();
    sometimes(0.1, "no boot");
    const id = sandboxId.make();
    const { promise, resolve } = Promise.withResolvers<void>();
    running.set(id, {
      oom: false,
      end: () => {
        running.delete(id);
        resolve();
      },
    });
    const process = { pid: 1, startTime: 1 };
    const sandbox = {
      names: sandboxNames(instance, id),
      nonce: "0",
      startedAt: "now",
      process,
      ended: promise,
      complaint: () => "",
    };
    sandboxes.enter(sandbox, null);
    return sandbox;
  }

  const pool = createPool<Sandbox>({
    target: 2,
    parallel: 2,
    boot,
    log: silent,
    refillDelayMs: 1,
    backoffMs: { first: 1, most: 2 },
  });
  const sandboxes = createSandboxes({
    pool,
    host,
    limit,
    log: silent,
    fateMs: 60_000,
    endWaitMs: 5,
    freezeMs: 20,
  });
  return {
    sandboxes,
    pool,
    running,
    mounted,
    standing,
    faults,
    die: (id: SandboxId, oom: boolean) => {
      if (oom) oomed.add(id);
      running.get(id)?.end();
    },
  };
}

test("a namespace keeps its sandbox, another gets another, and a stopped one is replaced", async () => {
  const { sandboxes, mounted } = fakeHost();
  const [a, b] = [namespaceId.make(), namespaceId.make()];
  const [first, again, other] = await Promise.all([
    sandboxes.ensure(a),
    sandboxes.ensure(a),
    sandboxes.ensure(b),
  ]);
  expect(again.sandbox).toBe(first.sandbox);
  expect(other.sandbox).not.toBe(first.sandbox);
  const [, replaced] = await Promise.all([sandboxes.stop(first.sandbox), sandboxes.ensure(a)]);
  expect(replaced.sandbox).not.toBe(first.sandbox);
  expect(mounted.get(replaced.sandbox)).toBe(a);
  await sandboxes.stopAll();
});

test("a sandbox that died is never handed out; its fate is kept", async () => {
  const { sandboxes, die } = fakeHost();
  const namespace = namespaceId.make();
  const first = await sandboxes.ensure(namespace);
  expect(await sandboxes.inspect(first.sandbox)).toEqual({ state: "running", oom: false });
  die(first.sandbox, true);
  const second = await sandboxes.ensure(namespace);
  expect(second.sandbox).not.toBe(first.sandbox);
  expect(await sandboxes.inspect(first.sandbox)).toEqual({ state: "gone", oom: true });
  expect(await sandboxes.inspect(sandboxId.make())).toEqual({ state: "gone", oom: false });
  await sandboxes.stopAll();
});

test("a sandbox stands still until it is told to go on, until it ends, or for a while", async () => {
  const { sandboxes, standing, die } = fakeHost();
  const namespace = namespaceId.make();
  expect(await sandboxes.freeze(namespace)).toBe(false);
  expect(await sandboxes.thaw(namespace)).toBe(false);

  const first = await sandboxes.ensure(namespace);
  expect(await sandboxes.freeze(namespace)).toBe(true);
  expect([...standing]).toEqual([first.sandbox]);
  expect(await sandboxes.thaw(namespace)).toBe(true);
  expect(standing.size).toBe(0);
  expect(await sandboxes.thaw(namespace)).toBe(false);

  await sandboxes.freeze(namespace);
  while (standing.size > 0) await tick();
  // It went on by itself.
  expect(await sandboxes.thaw(namespace)).toBe(false);

  await sandboxes.freeze(namespace);
  die(first.sandbox, false);
  while (sandboxes.has(first.sandbox)) await tick();
  expect(await sandboxes.thaw(namespace)).toBe(false);

  await sandboxes.ensure(namespace);
  await sandboxes.freeze(namespace);
  await sandboxes.stopAll();
  expect(standing.size).toBe(0);
});

test("more tenants than the limit are refused, also all at once; those that have a sandbox are not", async () => {
  const { sandboxes } = fakeHost(() => 1, 2);
  const namespaces = Array.from({ length: 5 }, () => namespaceId.make());
  const outcomes = await Promise.allSettled(namespaces.map((namespace) => sandboxes.ensure(namespace)));
  const served = namespaces.filter((_, index) => outcomes[index]?.status === "fulfilled");
  expect(served.length).toBe(2);
  for (const namespace of namespaces) {
    const again = await sandboxes.ensure(namespace).catch((error: unknown) => error);
    expect(again).toMatchObject(served.includes(namespace) ? { from_pool: false } : { code: "unavailable" });
  }
  await sandboxes.stopAll();
});

test("whatever happens in whatever order, no sandbox has two tenants and no namespace two sandboxes", async () => {
  for (let round = 0; round < 30; round++) {
    const at = fakeHost(Math.random);
    const namespaces = Array.from({ length: 4 }, () => namespaceId.make());
    const seen: SandboxId[] = [];
    const pick = <T>(list: readonly T[]): T | undefined => list[Math.floor(Math.random() * list.length)];
    const act = async () => {
      for (let n = 0; n < 25; n++) {
        const what = Math.random();
        const id = pick(seen);
        if (what < 0.6) {
          const answer = await at.sandboxes.ensure(pick(namespaces)!).catch(() => undefined);
          if (answer !== undefined) seen.push(answer.sandbox);
        } else if (what < 0.75 && id !== undefined) await at.sandboxes.stop(id).catch(() => {});
        else if (what < 0.9) at.die(pick([...at.running.keys()]) ?? sandboxId.make(), Math.random() < 0.5);
        else if (what < 0.95) {
          const namespace = pick(namespaces)!;
          await at.sandboxes.freeze(namespace).catch(() => {});
          if (Math.random() < 0.5) await at.sandboxes.thaw(namespace);
        } else if (id !== undefined) await at.sandboxes.inspect(id);
        await tick();
      }
    };
    await Promise.all(Array.from({ length: 6 }, act));
    await at.pool.stop();
    await at.sandboxes.stopAll().catch(() => {});
    expect(at.faults).toEqual([]);
    expect([...at.running.keys()]).toEqual([]);
    expect([...at.mounted.keys()]).toEqual([]);
    expect([...at.standing]).toEqual([]);
    expect(at.sandboxes.list()).toEqual([]);
  }
});
