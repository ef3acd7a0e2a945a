import { afterEach, expect, test } from "bun:test";
import { namespaceId } from "../../../src/ids.ts";
import { createLeases, type Leases } from "../../../src/volumes/leases.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { until } from "../../fixtures/until.ts";

const id = namespaceId.make();
let leases: Leases;

afterEach(() => leases.stop());

/** Leases whose opener says what it did, and does it when it is let. */
function stage(options: { idleMs?: number } = {}) {
  const done: string[] = [];
  const opener = {
    fail: null as string | null,
    gate: Promise.resolve(),
    async open() {
      await this.gate;
      if (this.fail === "open") throw new Error("no key");
      done.push("open");
    },
    async close() {
      await this.gate;
      if (this.fail === "close") throw new Error("busy");
      done.push("close");
    },
  };
  let inUse = false;
  leases = createLeases({
    opener,
    idleMs: () => options.idleMs ?? 1e9,
    inUse: () => inUse,
    log: { warn: () => void done.push("warned") },
    tickMs: 1,
  });
  return { done, opener, use: (now: boolean) => (inUse = now) };
}

const nothing = async () => {};

test("a volume is opened once for all who come together, and again after a failure", async () => {
  const { done, opener } = stage();
  opener.fail = "open";
  const [one, two] = [leases.hold(id, "read", nothing), leases.hold(id, "write", nothing)];
  expect([await failureOf(one), await failureOf(two)]).toEqual(["no key", "no key"]);
  opener.fail = null;
  await Promise.all([1, 2, 3].map(async () => leases.hold(id, "write", nothing)));
  await leases.hold(id, "read", nothing);
  expect(done).toEqual(["open"]);
});

test("who has it to himself waits for writers, keeps later ones out, and lets readers be", async () => {
  stage();
  const order: string[] = [];
  const first = await leases.acquire(id, "write");
  const exclusives = [1, 2].map(async (n) =>
    leases.exclusive(id, async () => {
      order.push(`alone ${n}`);
      await Bun.sleep(2);
      order.push(`done ${n}`);
    }),
  );
  const writer = leases.hold(id, "write", async () => void order.push("writer"));
  await leases.hold(id, "read", async () => void order.push("reader"));
  await Bun.sleep(2);
  order.push("first ends");
  first();
  await Promise.all([...exclusives, writer]);
  expect(order).toEqual(["reader", "first ends", "alone 1", "done 1", "alone 2", "done 2", "writer"]);
});

test("work that fails lets the next go on", async () => {
  stage();
  expect(await failureOf(leases.exclusive(id, () => Promise.reject(new Error("so"))))).toBe("so");
  expect(await failureOf(leases.hold(id, "write", () => Promise.reject(new Error("so"))))).toBe("so");
  expect(await leases.exclusive(id, async () => "well")).toBe("well");
});

test("an idle one is closed, once nothing else uses it, and one that fails at that is tried again", async () => {
  const { done, opener, use } = stage({ idleMs: 0 });
  use(true);
  const release = await leases.acquire(id, "read");
  release();
  await Bun.sleep(10);
  expect(done).toEqual(["open"]);
  opener.fail = "close";
  use(false);
  await until(() => done.includes("warned"));
  await leases.hold(id, "read", nothing);
  opener.fail = null;
  await until(() => done.includes("close"));
  expect(leases.isOpen(id)).toBe(false);
  expect(done.filter((what) => what === "open")).toHaveLength(1);
});

test("a lease that is asked for while it closes finds it open again", async () => {
  const { done, opener } = stage({ idleMs: 0 });
  const shut = Promise.withResolvers<void>();
  await leases.hold(id, "read", async () => void (opener.gate = shut.promise));
  await until(() => !leases.isOpen(id));
  const late = leases.hold(id, "write", async () => void done.push("work"));
  shut.resolve();
  await late;
  expect(done.slice(0, 4)).toEqual(["open", "close", "open", "work"]);
});
