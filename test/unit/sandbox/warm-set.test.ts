import { afterEach, describe, expect, test } from "bun:test";
import { namespaceId, sandboxId, type NamespaceId } from "../../../src/ids.ts";
import { createLog } from "../../../src/log.ts";
import { createWarmSet, type WarmSession, type WarmSet } from "../../../src/sandbox/warm-set.ts";
import { until } from "../../fixtures/until.ts";

const log = createLog("test", () => {});
const GIB = 1024 * 1024 * 1024;
const [a, b, c] = [namespaceId.make(), namespaceId.make(), namespaceId.make()];

class FakeSession implements WarmSession {
  readonly sandbox = sandboxId.make();
  alive = true;
  readonly #over = Promise.withResolvers<void>();
  readonly over = this.#over.promise;
  /** Set: its end takes until gone() is called. */
  slow = false;

  end(_detail: string): Promise<void> {
    this.alive = false;
    if (!this.slow) this.gone();
    return this.over;
  }

  gone(): void {
    this.alive = false;
    this.#over.resolve();
  }
}

let warm: WarmSet<FakeSession>;
let opened: NamespaceId[];
let availableBytes: number;

function start(settings: { idleMs?: number; max?: number; open?: () => Promise<FakeSession> } = {}): void {
  opened = [];
  availableBytes = 4 * GIB;
  warm = createWarmSet({
    open: async (namespace) => {
      opened.push(namespace);
      return await (settings.open?.() ?? Promise.resolve(new FakeSession()));
    },
    limits: () => ({ idleMs: settings.idleMs ?? 60_000, max: settings.max ?? 10 }),
    availableMemory: async () => {
      if (Number.isNaN(availableBytes)) throw new Error("sandboxd is away");
      return availableBytes;
    },
    log,
    tickMs: 2,
  });
}

afterEach(() => warm.close());

async function use(namespace: NamespaceId): Promise<FakeSession> {
  const { session, release } = await warm.acquire(namespace);
  release();
  return session;
}

describe("warm set", () => {
  test("gives a namespace its session again, and each namespace its own", async () => {
    start();
    const first = await use(a);
    expect(await use(a)).toBe(first);
    expect(await use(b)).not.toBe(first);
    expect(opened).toEqual([a, b]);
  });

  test("ends what is idle, not what is in use", async () => {
    start({ idleMs: 20 });
    const idle = await use(a);
    const lease = await warm.acquire(b);
    await until(() => !idle.alive);
    await Bun.sleep(30);
    expect(lease.session.alive).toBe(true);
    lease.release();
    await until(() => !lease.session.alive);
    await until(() => warm.stats().warm === 0);
  });

  test("short of memory: ends idle ones, least recently used first, and stops when there is enough", async () => {
    start();
    const sessions = [await use(a), await use(b), await use(c)];
    await use(a);
    const busy = await warm.acquire(b);
    availableBytes = GIB / 8;
    await until(() => !sessions[2]!.alive);
    availableBytes = 4 * GIB;
    await Bun.sleep(10);
    expect(sessions.map(({ alive }) => alive)).toEqual([true, true, false]);
    availableBytes = GIB / 8;
    await until(() => !sessions[0]!.alive);
    await Bun.sleep(10);
    expect(busy.session.alive).toBe(true);
  });

  test("memory that nobody can tell is no reason to end anything", async () => {
    start();
    availableBytes = NaN;
    const session = await use(a);
    await Bun.sleep(20);
    expect(session.alive).toBe(true);
  });

  test("does not open the next one of a namespace before the last one is gone", async () => {
    start();
    const first = await use(a);
    first.slow = true;
    void first.end("");
    const next = warm.acquire(a);
    await Bun.sleep(5);
    expect(opened).toEqual([a]);
    first.gone();
    expect((await next).session).not.toBe(first);
  });

  test("more than `max` only while they are in use", async () => {
    start({ max: 1 });
    const leases = [await warm.acquire(a), await warm.acquire(b), await warm.acquire(c)];
    expect(leases.map(({ session }) => session.alive)).toEqual([true, true, true]);
    for (const lease of leases) lease.release();
    await until(() => warm.stats().warm === 1);
  });

  test("a caller that gives up leaves no lease behind", async () => {
    const session = Promise.withResolvers<FakeSession>();
    start({ open: () => session.promise });
    const caller = new AbortController();
    const call = warm.acquire(a, caller.signal).catch((error: unknown) => error);
    await Bun.sleep(2);
    expect(warm.stats().leases).toBe(1);
    caller.abort();
    expect(await call).toMatchObject({ code: "timeout" });
    expect(warm.stats()).toEqual({ warm: 1, leases: 0 });
    session.resolve(new FakeSession());
  });

  test("a session that ends by itself is forgotten", async () => {
    start();
    (await use(a)).gone();
    await until(() => warm.stats().warm === 0);
    await use(a);
    expect(opened).toEqual([a, a]);
  });

  test("closed: everything ends, and nothing is opened", async () => {
    start();
    const session = await use(a);
    await warm.close();
    expect(session.alive).toBe(false);
    const refused = await warm.acquire(b).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: "unavailable" });
  });
});
