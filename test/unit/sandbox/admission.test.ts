import { describe, expect, test } from "bun:test";
import { AppError } from "../../../src/errors.ts";
import { namespaceId, type NamespaceId } from "../../../src/ids.ts";
import { createAdmission, type Release } from "../../../src/sandbox/admission.ts";
import { seededRandom } from "../../fixtures/random.ts";

const limits = { concurrency: 2, perNamespace: 1, queue: 3, maxWaitMs: 60_000 };
const [a, b, c, d] = [namespaceId.make(), namespaceId.make(), namespaceId.make(), namespaceId.make()];

/** Lets every promise that can settle do so. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return error instanceof AppError ? error.code : String(error);
}

describe("admission", () => {
  test("a namespace's second call waits for its first, another namespace's does not", async () => {
    const admission = createAdmission(() => limits);
    const first = await admission.admit(a);
    let second = false;
    const waits = admission.admit(a).then((release) => {
      second = true;
      return release;
    });
    (await admission.admit(b))();
    await settle();
    expect(second).toBe(false);
    first();
    (await waits)();
    expect(admission.stats()).toEqual({ running: 0, waiting: 0, namespaces: 0 });
  });

  test("namespaces take turns, whoever queued first", async () => {
    const admission = createAdmission(() => ({
      concurrency: 1,
      perNamespace: 1,
      queue: 10,
      maxWaitMs: 60_000,
    }));
    const order: string[] = [];
    const hold = await admission.admit(d);
    const calls = [
      [a, "a1"],
      [a, "a2"],
      [a, "a3"],
      [b, "b1"],
      [c, "c1"],
      [b, "b2"],
    ] as const;
    const done = calls.map(async ([namespace, name]) => {
      const release = await admission.admit(namespace);
      order.push(name);
      release();
    });
    hold();
    await Promise.all(done);
    expect(order).toEqual(["a1", "b1", "c1", "a2", "b2", "a3"]);
  });

  test("over the queue: busy, with a Retry-After", async () => {
    const admission = createAdmission(() => ({ ...limits, queue: 0 }));
    await admission.admit(a);
    const error = await admission.admit(a).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "busy", retryAfterS: 1 });
  });

  test("one namespace can't fill the queue: a newcomer takes its last place", async () => {
    const admission = createAdmission(() => ({ ...limits, concurrency: 1 }));
    const hold = await admission.admit(d);
    const hog = [admission.admit(a), admission.admit(a), admission.admit(a)];
    const newcomer = admission.admit(b);
    expect(await codeOf(hog[2]!)).toBe("busy");
    // Two waiting of a, one of b: now c would leave a with as many as itself.
    const next = admission.admit(c);
    expect(await codeOf(hog[1]!)).toBe("busy");
    expect(await codeOf(admission.admit(d))).toBe("busy");
    hold();
    for (const waits of [hog[0]!, newcomer, next]) (await waits)();
    expect(admission.stats()).toEqual({ running: 0, waiting: 0, namespaces: 0 });
  });

  test("a call that waits too long is busy", async () => {
    const admission = createAdmission(() => ({ ...limits, maxWaitMs: 5 }));
    await admission.admit(a);
    expect(await codeOf(admission.admit(a))).toBe("busy");
    expect(admission.stats()).toEqual({ running: 1, waiting: 0, namespaces: 1 });
  });

  test("a caller that hangs up leaves the queue", async () => {
    const admission = createAdmission(() => limits);
    const first = await admission.admit(a);
    const caller = new AbortController();
    const waits = admission.admit(a, caller.signal);
    caller.abort();
    expect(await codeOf(waits)).toBe("timeout");
    expect(await codeOf(admission.admit(b, caller.signal))).toBe("timeout");
    first();
    expect(admission.stats()).toEqual({ running: 0, waiting: 0, namespaces: 0 });
  });

  test("a release counts once", async () => {
    const admission = createAdmission(() => ({ ...limits, perNamespace: 2 }));
    const first = await admission.admit(a);
    await admission.admit(a);
    first();
    first();
    expect(admission.stats().running).toBe(1);
  });

  test("refuseWaiting and idle", async () => {
    const admission = createAdmission(() => limits);
    const first = await admission.admit(a);
    const waits = admission.admit(a);
    admission.refuseWaiting(new AppError("unavailable", "Stopping."));
    expect(await codeOf(waits)).toBe("unavailable");
    let idle = false;
    const done = admission.idle().then(() => (idle = true));
    await settle();
    expect(idle).toBe(false);
    first();
    await done;
    expect(admission.stats()).toEqual({ running: 0, waiting: 0, namespaces: 0 });
  });

  const base = Number(Bun.env["SEED"] ?? 1);
  test(`random calls, releases and hang-ups: never over a limit, nobody forgotten, no leak (seeds from ${base})`, async () => {
    for (let seed = base; seed < base + 60; seed += 1) {
      try {
        await randomRun(seed);
      } catch (cause) {
        throw new Error(`SEED=${seed}`, { cause });
      }
    }
  });
});

async function randomRun(seed: number): Promise<void> {
  const random = seededRandom(seed);
  const bounds = {
    concurrency: 1 + random.int(5),
    perNamespace: 1 + random.int(3),
    queue: random.int(8),
    maxWaitMs: 60_000,
  };
  const admission = createAdmission(() => bounds);
  const namespaces = [a, b, c, d];
  const running: { namespace: NamespaceId; release: Release }[] = [];
  /** FIFO of each namespace's calls that were neither admitted nor refused. */
  const waiting = new Map<NamespaceId, number[]>(namespaces.map((namespace) => [namespace, []]));
  const callers = new Map<number, AbortController>();
  let settled = 0;
  let made = 0;

  const call = (namespace: NamespaceId): void => {
    const number = (made += 1);
    const caller = new AbortController();
    callers.set(number, caller);
    waiting.get(namespace)!.push(number);
    const leave = (): void => {
      const queue = waiting.get(namespace)!;
      queue.splice(queue.indexOf(number), 1);
      callers.delete(number);
      settled += 1;
    };
    admission.admit(namespace, caller.signal).then(
      (release) => {
        expect(waiting.get(namespace)![0]).toBe(number);
        leave();
        running.push({ namespace, release });
        expect(running.length).toBeLessThanOrEqual(bounds.concurrency);
        expect(running.filter((one) => one.namespace === namespace).length).toBeLessThanOrEqual(
          bounds.perNamespace,
        );
        return undefined;
      },
      (error: unknown) => {
        expect(error).toBeInstanceOf(AppError);
        leave();
      },
    );
  };

  for (let step = 0; step < 120; step += 1) {
    const what = random.int(10);
    if (what < 5) call(namespaces[random.int(namespaces.length)]!);
    else if (what < 9) running.splice(random.int(running.length || 1), 1)[0]?.release();
    else [...callers.values()][random.int(callers.size || 1)]?.abort();
    await settle();
    const stats = admission.stats();
    expect(stats.running).toBe(running.length);
    expect(stats.waiting).toBe([...waiting.values()].flat().length);
    expect(stats.waiting).toBeLessThanOrEqual(bounds.queue);
    // No place is left empty while somebody could take it.
    if (stats.running < bounds.concurrency) {
      for (const [namespace, queue] of waiting) {
        const mine = running.filter((one) => one.namespace === namespace).length;
        expect(queue.length === 0 || mine === bounds.perNamespace).toBe(true);
      }
    }
  }
  while (running.length > 0) {
    running.shift()?.release();
    await settle();
  }
  expect(settled).toBe(made);
  expect(admission.stats()).toEqual({ running: 0, waiting: 0, namespaces: 0 });
}
