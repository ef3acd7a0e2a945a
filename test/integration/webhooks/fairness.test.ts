import { expect, setDefaultTimeout, test } from "bun:test";
import { APPLIANCE } from "../../../src/audit/event.ts";
import { workspaces } from "../../../src/db/schema.ts";
import { AppError } from "../../../src/errors.ts";
import { workspaceId } from "../../../src/ids.ts";
import { startTestWebhooks, type TestWebhooks } from "../../fixtures/webhooks.ts";
import { until } from "../../fixtures/until.ts";

setDefaultTimeout(60_000);

const FILES = { events: ["file.written"] };

test("beside thirty endpoints that never answer and a dead one, a good one gets everything", async () => {
  const open = new Map<string, number>();
  const got: string[] = [];
  const w = await startTestWebhooks({
    post: async ({ url, headers, signal }) => {
      if (url.startsWith("https://good/")) {
        got.push(headers["webhook-id"] ?? "");
        return { status: 200, retryAfter: null };
      }
      if (url.startsWith("https://dead/")) throw new AppError("unavailable", "dead refused the connection.");
      open.set(url, (open.get(url) ?? 0) + 1);
      await new Promise<void>((_, reject) =>
        signal.addEventListener("abort", () => reject(new Error("stop"))),
      );
      throw new Error("unreachable");
    },
  });
  for (let n = 0; n < 30; n++) await w.create(`https://hangs/${n}`, FILES);
  await w.create("https://dead/", FILES);
  const { webhook } = await w.create("https://good/", FILES);
  const ids: string[] = [];
  for (let round = 0; round < 20; round++) ids.push(...(await w.happen(50)));
  while (got.length < ids.length) await Bun.sleep(5);
  expect(got.toSorted()).toEqual(ids.toSorted());
  // One that was never heard of is asked once.
  expect([...open.values()]).toEqual(Array.from({ length: 30 }, () => 1));
  const waiting = () => w.webhooks.deliveries(webhook, { state: "waiting", before: null, limit: 1 });
  while ((await waiting()).length > 0) await Bun.sleep(5);
  expect(w.webhooks.stats().inFlight).toBe(30);
  // What hangs is left to its lease.
  await w.stopNow();
});

test("endpoints that answered at first and then hang, or are slow, hold at most half of their workspace's attempts", async () => {
  const phase = { hang: false, open: 0 };
  const got: string[] = [];
  const w = await startTestWebhooks({
    post: async ({ url, headers, signal }) => {
      if (url.startsWith("https://good/")) got.push(headers["webhook-id"] ?? "");
      else if (phase.hang) {
        phase.open++;
        await new Promise<void>((_, reject) =>
          signal.addEventListener("abort", () => reject(new Error("stop"))),
        );
      } else await Bun.sleep(1100);
      return { status: 200, retryAfter: null };
    },
  });
  for (let n = 0; n < 40; n++) await w.create(`https://turns/${n}`, FILES);
  await w.create("https://good/", FILES);
  // So that each earns some attempts at once; between two rounds of theirs nothing is in flight for a moment.
  await w.happen(3);
  await w.settled();
  phase.hang = true;
  got.length = 0;
  const ids: string[] = [];
  for (let round = 0; round < 10; round++) ids.push(...(await w.happen(50)));
  while (got.length < ids.length || phase.open < 64) await Bun.sleep(5);
  expect(got.toSorted()).toEqual(ids.toSorted());
  expect(phase.open).toBe(64);
  await w.stopNow();
});

/** Another workspace, with endpoints that take files. */
async function neighbour(w: TestWebhooks, urls: readonly string[]) {
  const chain = workspaceId.make();
  await w.db.insert(workspaces).values({ id: chain, name: chain, createdAt: 1 });
  for (const url of urls) {
    const wanted = { url, events: FILES.events, namespace: null, description: null };
    await w.webhooks.create(chain, wanted, APPLIANCE);
  }
  return chain;
}

test("one that is new waits for a part of the attempts to end, and not for others' thousand that never answer", async () => {
  const attemptMs = 15_000;
  const asked: string[] = [];
  const w = await startTestWebhooks({
    post: async ({ url, signal }) => {
      asked.push(url);
      if (url === "https://good/") return { status: 200, retryAfter: null };
      await new Promise<void>((resolve) => {
        w.clock.after(attemptMs, resolve);
        signal.addEventListener("abort", () => resolve());
      });
      throw new AppError("unavailable", "dead did not answer.");
    },
  });
  for (let tenant = 0; tenant < 20; tenant++) {
    const urls = Array.from({ length: 50 }, (_, n) => `https://dead/${tenant}/${n}`);
    await w.happen(5, { chain: await neighbour(w, urls) });
  }
  while (w.webhooks.stats().inFlight < 256) await Bun.sleep(5);
  await w.create("https://good/", FILES);
  await w.happen(1);
  for (let waited = 0; waited < attemptMs && !asked.includes("https://good/"); waited += attemptMs / 5) {
    w.clock.advance(attemptMs / 5);
    await Bun.sleep(100);
  }
  await until(() => asked.includes("https://good/"));
  await w.stopNow();
});

test("a workspace whose many endpoints were quick and then all hang has no more than its part", async () => {
  const phase = { hang: false, open: 0 };
  const got: string[] = [];
  const w = await startTestWebhooks({
    post: async ({ url, headers, signal }) => {
      if (url === "https://good/") got.push(headers["webhook-id"] ?? "");
      else if (phase.hang) {
        phase.open++;
        await new Promise<void>((_, reject) =>
          signal.addEventListener("abort", () => reject(new Error("stop"))),
        );
      }
      return { status: 200, retryAfter: null };
    },
  });
  const urls = Array.from({ length: 40 }, (_, n) => `https://turns/${n}`);
  const chain = await neighbour(w, urls);
  await w.create("https://good/", FILES);
  await w.happen(40, { chain });
  await w.happen(1);
  await w.settled();
  phase.hang = true;
  await w.happen(40, { chain });
  while (phase.open < 128) await Bun.sleep(5);
  got.length = 0;
  const ids = await w.happen(50);
  while (got.length < ids.length) await Bun.sleep(5);
  expect(phase.open).toBe(128);
  await w.stopNow();
});

test("the backlog of an endpoint that is away stays in the database", async () => {
  const w = await startTestWebhooks();
  await w.create("https://away/", FILES);
  w.behaviour.answer = () => Promise.reject(new AppError("unavailable", "away refused the connection."));
  for (let round = 0; round < 20; round++) await w.happen(250);
  await w.settled();
  expect(w.posted.length).toBeLessThan(20);
  const { rows } = await w.db.$client.execute("SELECT count(*) AS n FROM deliveries WHERE state = 'waiting'");
  expect(rows[0]?.["n"]).toBe(5000);
  await w.close();
});
