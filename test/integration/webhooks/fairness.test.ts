import { expect, setDefaultTimeout, test } from "bun:test";
import { AppError } from "../../../src/errors.ts";
import { startTestWebhooks } from "../../fixtures/webhooks.ts";

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

test("endpoints that answered at first and then hang, or are slow, hold at most half of the attempts", async () => {
  const phase = { hang: false };
  const got: string[] = [];
  let open = 0;
  const w = await startTestWebhooks({
    post: async ({ url, headers, signal }) => {
      if (url.startsWith("https://good/")) got.push(headers["webhook-id"] ?? "");
      else if (phase.hang) {
        open++;
        await new Promise<void>((_, reject) =>
          signal.addEventListener("abort", () => reject(new Error("stop"))),
        );
      } else await Bun.sleep(1200);
      return { status: 200, retryAfter: null };
    },
  });
  for (let n = 0; n < 40; n++) await w.create(`https://turns/${n}`, FILES);
  await w.create("https://good/", FILES);
  const before = await w.happen(8);
  while (w.webhooks.stats().inFlight > 0 || got.length < before.length) await Bun.sleep(5);
  phase.hang = true;
  got.length = 0;
  const ids: string[] = [];
  for (let round = 0; round < 10; round++) ids.push(...(await w.happen(50)));
  while (got.length < ids.length) await Bun.sleep(5);
  expect(got.toSorted()).toEqual(ids.toSorted());
  expect(open).toBeGreaterThan(40);
  expect(open).toBeLessThanOrEqual(256);
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
