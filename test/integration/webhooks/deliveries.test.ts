import { expect, test } from "bun:test";
import { APPLIANCE } from "../../../src/audit/event.ts";
import { AppError } from "../../../src/errors.ts";
import { MAX_ATTEMPTS } from "../../../src/webhooks/schedule.ts";
import type { Webhook } from "../../../src/webhooks/webhook.ts";
import { startTestWebhooks, type TestWebhooks } from "../../fixtures/webhooks.ts";

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const MINUTES_AFTER = [5 / 60, 5, 30, 120, 300, 600, 840, 1200, 1440];

const idsAt = ({ posted }: TestWebhooks, url: string) =>
  posted.filter((call) => call.url === url).map(({ id }) => id);

const deliveries = (
  { webhooks }: TestWebhooks,
  webhook: Webhook,
  state: "waiting" | "delivered" | "dead" | null = null,
) => webhooks.deliveries(webhook, { state, before: null, limit: 1000 });

async function eventTypes({ db, workspace }: TestWebhooks): Promise<string[]> {
  const { rows } = await db.$client.execute({
    sql: "SELECT type FROM events WHERE chain = ? ORDER BY created_at",
    args: [workspace],
  });
  return rows.map((row) => row["type"] as string);
}

/** Lets time pass from one due attempt to the next, until nothing is due any more or `enough` says so of the next. */
async function passAll(w: TestWebhooks, enough: (due: number) => boolean = () => false): Promise<void> {
  for (let due = w.clock.next(); due !== null && !enough(due); due = w.clock.next()) {
    await w.pass(due - w.clock.now());
  }
}

test("each event goes once to each webhook that wants it, and to no other", async () => {
  const w = await startTestWebhooks();
  const before = await w.happen(3);
  await w.create("https://all/");
  await w.create("https://files/", { events: ["file.*", "key.created"] });
  await w.create("https://alice/", { namespace: "alice" });
  const files = await w.happen(2);
  const execs = await w.happen(2, { type: "exec.completed", namespace: "alice" });
  const tricky = await w.happen(1, { type: "filed.away", namespace: "alic" });
  await w.settled();
  expect(idsAt(w, "https://files/").toSorted()).toEqual(files.toSorted());
  expect(idsAt(w, "https://alice/").toSorted()).toEqual(execs.toSorted());
  const all = idsAt(w, "https://all/");
  for (const id of [...files, ...execs, ...tricky]) expect(all.filter((one) => one === id)).toHaveLength(1);
  for (const id of before) expect(all).not.toContain(id);
  // Of the webhooks' own events it gets those of the other two, not its own.
  expect(all).toHaveLength(5 + 2);
  await w.close();
});

test("the schedule: ten attempts over three days, then it is dead; a replay begins anew", async () => {
  const w = await startTestWebhooks();
  const { webhook } = await w.create("https://down/", { events: ["file.written"] });
  w.behaviour.answer = () => ({ status: 500 });
  const [id = ""] = await w.happen(1);
  await w.settled();
  const start = w.clock.now();
  const times = [];
  for (let count = 1; count < MAX_ATTEMPTS; count++) {
    expect(w.posted).toHaveLength(count);
    const due = w.clock.next();
    times.push((due! - start) / MINUTE);
    await w.pass(due! - w.clock.now());
  }
  let sum = 0;
  expect(times.map((time) => time.toFixed(3))).toEqual(MINUTES_AFTER.map((gap) => (sum += gap).toFixed(3)));
  expect(w.posted).toHaveLength(MAX_ATTEMPTS);
  expect(w.clock.next()).toBeNull();
  expect(w.metered.map(({ result }) => result)).toEqual([...MINUTES_AFTER.map(() => "failed"), "dead"]);
  expect(await deliveries(w, webhook, "dead")).toMatchObject([
    { eventId: id, attempts: MAX_ATTEMPTS, status: 500 },
  ]);

  w.behaviour.answer = () => ({ status: 204 });
  await w.webhooks.replayOne(webhook, id, APPLIANCE);
  await w.settled();
  expect(new Set(w.posted.map((call) => call.id))).toEqual(new Set([id]));
  expect(await deliveries(w, webhook)).toMatchObject([{ state: "delivered", attempts: 1, status: 204 }]);
  await w.close();
});

test("the meter is told what each attempt came to, and stats of what is overdue", async () => {
  const w = await startTestWebhooks();
  await w.create("https://down/", { events: ["file.written"] });
  expect(w.webhooks.stats().overdueMs).toBe(0);
  const answered = Promise.withResolvers<void>();
  w.behaviour.answer = async () => {
    await answered.promise;
    return { status: 500 };
  };
  // More than may be under way to one endpoint: the others are due, and wait.
  await w.happen(100);
  while (w.posted.length === 0) await Bun.sleep(1);
  w.clock.advance(7 * SECOND);
  expect(w.webhooks.stats().overdueMs).toBeGreaterThanOrEqual(7 * SECOND);
  w.behaviour.answer = () => ({ status: 500 });
  answered.resolve();
  await w.settled();
  expect(new Set(w.metered.map(({ result }) => result))).toEqual(new Set(["failed"]));
  w.behaviour.answer = () => ({ status: 200 });
  await passAll(w);
  const results = w.metered.map(({ result }) => result);
  expect(results.filter((result) => result === "delivered")).toHaveLength(100);
  expect(results).toHaveLength(w.posted.length);
  for (const { result, sinceEventMs } of w.metered) {
    if (result === "delivered") expect(sinceEventMs).toBeGreaterThanOrEqual(7 * SECOND);
  }
  expect(w.webhooks.stats().overdueMs).toBe(0);
  await w.close();
});

test("each attempt is signed anew, under the same id and with the same body", async () => {
  const w = await startTestWebhooks();
  await w.create("https://down/", { events: ["file.written"] });
  w.behaviour.answer = () => ({ status: 500 });
  await w.happen(1);
  await w.settled();
  await w.pass(5 * SECOND);
  const [first, second] = w.posted;
  expect(w.posted).toHaveLength(2);
  expect(second?.body).toBe(first?.body ?? "");
  expect(second?.headers["webhook-id"]).toBe(first?.headers["webhook-id"] ?? "");
  for (const name of ["webhook-timestamp", "webhook-signature", "x-trove-signature"])
    expect(second?.headers[name]).not.toBe(first?.headers[name] ?? "");
  await w.close();
});

test("Retry-After is kept to, by all deliveries to that endpoint, within bounds", async () => {
  const w = await startTestWebhooks();
  await w.create("https://busy/", { events: ["file.written"] });
  await w.create("https://forever/", { events: ["key.created"] });
  w.behaviour.answer = ({ url }) => ({
    status: 429,
    retryAfter: url === "https://busy/" ? "120" : "999999999",
  });
  await w.happen(1);
  await w.happen(1, { type: "key.created" });
  await w.settled();
  w.behaviour.answer = () => ({ status: 200 });
  await w.happen(3);
  await w.pass(119 * SECOND);
  expect(idsAt(w, "https://busy/")).toHaveLength(1);
  await w.pass(SECOND);
  expect(idsAt(w, "https://busy/")).toHaveLength(1 + 4);
  await w.pass(DAY);
  expect(idsAt(w, "https://forever/")).toHaveLength(2);
  await w.close();
});

test("a redirect is a failure, and its target is not asked", async () => {
  const w = await startTestWebhooks();
  const { webhook } = await w.create("https://moved/", { events: ["file.written"] });
  w.behaviour.answer = () => ({ status: 301 });
  await w.happen(1);
  await w.settled();
  expect(await deliveries(w, webhook)).toMatchObject([
    { state: "waiting", status: 301, error: "It answered 301; redirects are not followed." },
  ]);
  await w.close();
});

test("410 disables it, with an event; enabled again, it gets what waited and what is new", async () => {
  const w = await startTestWebhooks();
  const { webhook } = await w.create("https://gone/", { events: ["file.written"] });
  const { webhook: watcher } = await w.create("https://watch/", { events: ["webhook.disabled"] });
  w.behaviour.answer = ({ url }) => ({ status: url === "https://gone/" ? 410 : 200 });
  const [first = ""] = await w.happen(1);
  await w.settled();
  const missed = await w.happen(2);
  await w.settled();
  expect(idsAt(w, "https://gone/")).toEqual([first]);
  expect(await eventTypes(w)).toContain("webhook.disabled");
  expect(await deliveries(w, watcher)).toMatchObject([{ type: "webhook.disabled", state: "delivered" }]);
  expect(await w.webhooks.get(w.workspace, webhook.id)).toMatchObject({
    enabled: false,
    disabledReason: "Its endpoint answered 410: gone.",
  });

  w.behaviour.answer = () => ({ status: 200 });
  await w.webhooks.enable(w.workspace, webhook.id, APPLIANCE);
  const [fresh = ""] = await w.happen(1);
  await w.settled();
  await w.pass(MINUTE);
  expect(idsAt(w, "https://gone/").toSorted()).toEqual([first, first, fresh].toSorted());
  expect(
    await w.webhooks.replayRange(
      webhook,
      { after: 0, upTo: Number.MAX_SAFE_INTEGER, deadOnly: false },
      APPLIANCE,
    ),
  ).toEqual({
    queued: 4,
    cursor: null,
  });
  await w.settled();
  for (const id of missed) expect(idsAt(w, "https://gone/")).toContain(id);
  await w.close();
});

test("five days of failure disable it; failures that are further apart do not", async () => {
  const w = await startTestWebhooks();
  const { webhook } = await w.create("https://down/", { events: ["file.written"] });
  w.behaviour.answer = () => ({ status: 503 });
  const start = w.clock.now();
  const isEnabled = async () => (await w.webhooks.get(w.workspace, webhook.id)).enabled;
  // The second keeps it failing after the first was given up.
  await w.happen(1);
  await w.settled();
  await passAll(w, (due) => due - start > 2 * DAY);
  await w.pass(start + 2 * DAY - w.clock.now());
  await w.happen(1);
  await w.settled();
  await passAll(w, (due) => due - start >= 5 * DAY);
  expect(await isEnabled()).toBe(true);
  await passAll(w);
  expect(await isEnabled()).toBe(false);
  expect(w.clock.now() - start).toBeGreaterThanOrEqual(5 * DAY);
  expect((await eventTypes(w)).filter((type) => type === "webhook.disabled")).toHaveLength(1);

  await w.webhooks.enable(w.workspace, webhook.id, APPLIANCE);
  await w.pass(30 * DAY);
  for (let week = 0; week < 3; week++) {
    await w.happen(1);
    await w.settled();
    await w.pass(7 * DAY);
  }
  expect(await isEnabled()).toBe(true);
  await w.close();
});

test("a breaker: a dead endpoint with a long backlog is probed, and gets all of it when it is back", async () => {
  const w = await startTestWebhooks();
  const { webhook } = await w.create("https://dead/", { events: ["file.written"] });
  w.behaviour.answer = () => Promise.reject(new AppError("unavailable", "dead refused the connection."));
  const ids = await w.happen(300);
  await w.settled();
  await passAll(w, () => w.posted.length > 8);
  const start = w.clock.now();
  const before = w.posted.length;
  await passAll(w, (due) => due - start > 2 * HOUR);
  // One each ten minutes, give or take their jitter, and not one for each that waits.
  expect(w.posted.length - before).toBeLessThan(16);
  expect(w.posted.length - before).toBeGreaterThan(8);
  const waiting = await deliveries(w, webhook, "waiting");
  expect(waiting).toHaveLength(300);
  expect(waiting.filter(({ attempts }) => attempts === 0).length).toBeGreaterThan(270);

  w.posted.length = 0;
  w.behaviour.answer = () => ({ status: 200 });
  await passAll(w);
  expect(idsAt(w, "https://dead/").toSorted()).toEqual(ids.toSorted());
  expect(await deliveries(w, webhook, "delivered")).toHaveLength(300);
  await w.close();
});

test("what retention removed is dead, and says so", async () => {
  const w = await startTestWebhooks();
  const { webhook } = await w.create("https://late/", { events: ["file.written"] });
  w.behaviour.answer = () => ({ status: 500 });
  const [id] = await w.happen(1);
  await w.settled();
  await w.webhooks.disable(w.workspace, webhook.id, APPLIANCE);
  const [asleep] = await w.happen(1);
  await w.db.$client.execute({
    sql: "DELETE FROM events WHERE id IN (?, ?)",
    args: [id ?? "", asleep ?? ""],
  });
  await w.webhooks.enable(w.workspace, webhook.id, APPLIANCE);
  await w.pass(MINUTE);
  const gone = { state: "dead", error: "Retention removed its event before it could be delivered." };
  expect(await deliveries(w, webhook)).toMatchObject([{ eventId: id ?? "", ...gone }]);
  expect(w.posted).toHaveLength(1);
  await w.close();
});

test("a deleted webhook is sent nothing more, what is under way is broken off, and its deliveries go", async () => {
  const signals: AbortSignal[] = [];
  const w = await startTestWebhooks({
    post: ({ signal }) => {
      signals.push(signal);
      return new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("aborted"))));
    },
  });
  const { webhook } = await w.create("https://hangs/", { events: ["file.written"] });
  await w.happen(5);
  while (signals.length === 0) await Bun.sleep(1);
  await w.webhooks.remove(w.workspace, webhook.id, APPLIANCE);
  await w.settled();
  expect(signals.map(({ aborted }) => aborted)).toEqual(signals.map(() => true));
  await w.webhooks.sweep();
  for (const table of ["deliveries", "webhooks"])
    expect((await w.db.$client.execute(`SELECT count(*) AS n FROM ${table}`)).rows[0]?.["n"]).toBe(0);
  await w.pass(DAY);
  expect(signals).toHaveLength(1);
  await w.close();
});

test("a range is replayed in parts, each event once", async () => {
  const w = await startTestWebhooks();
  const { webhook } = await w.create("https://all/", { events: ["file.written"] });
  const ids = await w.happen(1_200);
  await w.settled();
  w.posted.length = 0;
  const after = await w.webhooks.eventAt(w.workspace, ids[99] ?? "");
  const upTo = await w.webhooks.eventAt(w.workspace, ids[1_099] ?? "");
  expect(await w.webhooks.replayRange(webhook, { after, upTo, deadOnly: true }, APPLIANCE)).toEqual({
    queued: 0,
    cursor: null,
  });
  expect(await w.webhooks.replayRange(webhook, { after, upTo, deadOnly: false }, APPLIANCE)).toEqual({
    queued: 1_000,
    cursor: null,
  });
  await w.settled();
  expect(idsAt(w, "https://all/").toSorted()).toEqual(ids.slice(100, 1_100).toSorted());
  await w.close();
});

test("a range of more than one call goes on from the event that the answer names", async () => {
  const w = await startTestWebhooks();
  const { webhook } = await w.create("https://all/", { events: ["file.written"] });
  await w.webhooks.disable(w.workspace, webhook.id, APPLIANCE);
  for (let round = 0; round < 5; round++) await w.happen(2_060);
  const range = { upTo: Number.MAX_SAFE_INTEGER, deadOnly: false };
  const first = await w.webhooks.replayRange(webhook, { ...range, after: 0 }, APPLIANCE);
  expect(first.queued).toBeGreaterThan(9_990);
  expect(first.cursor).toMatch(/^evt-/);
  const after = await w.webhooks.eventAt(w.workspace, first.cursor ?? "");
  const second = await w.webhooks.replayRange(webhook, { ...range, after }, APPLIANCE);
  expect(second.cursor).toBeNull();
  expect(first.queued + second.queued).toBe(10_300);
  const { rows } = await w.db.$client.execute("SELECT count(*) AS n FROM deliveries WHERE state = 'waiting'");
  expect(rows[0]?.["n"]).toBe(10_300);
  await w.close();
});

test("what the database did not take is stored later, and not sent again", async () => {
  const w = await startTestWebhooks();
  const { webhook } = await w.create("https://all/", { events: ["file.written"] });
  const client = w.db.$client;
  const batch = client.batch.bind(client);
  w.behaviour.answer = () => {
    client.batch = () => {
      client.batch = batch;
      return Promise.reject(new Error("SQLITE_FULL"));
    };
    return { status: 200 };
  };
  await w.happen(1);
  await w.settled();
  while ((await deliveries(w, webhook, "delivered")).length === 0) await Bun.sleep(20);
  expect(w.logged.join("")).toContain("the database failed");
  expect(w.posted).toHaveLength(1);
  await w.close();
});

test("a test is sent at once, to its webhook alone, also while that is disabled", async () => {
  const w = await startTestWebhooks();
  const { webhook } = await w.create("https://one/");
  await w.create("https://two/");
  await w.webhooks.disable(w.workspace, webhook.id, APPLIANCE);
  await w.settled();
  w.posted.length = 0;
  w.behaviour.answer = () => ({ status: 418 });
  const { eventId, outcome } = await w.webhooks.test(w.workspace, webhook.id, APPLIANCE);
  await w.settled();
  expect(outcome).toMatchObject({ ok: false, status: 418, error: "It answered 418." });
  expect(w.posted.map(({ url, id }) => [url, id])).toEqual([["https://one/", eventId]]);
  expect(JSON.parse(w.posted[0]?.body ?? "")).toMatchObject({ id: eventId, type: "webhook.test" });
  expect(await w.webhooks.get(w.workspace, webhook.id)).toMatchObject({
    lastDelivery: { ok: false, status: 418 },
  });
  await w.close();
});

test("a test that the end of its webhook breaks off is answered, also when that takes a while", async () => {
  const w = await startTestWebhooks({
    // As long as a look-up may take that nothing breaks off.
    post: async ({ signal }) => {
      while (!signal.aborted) await Bun.sleep(5);
      await Bun.sleep(200);
      throw new Error("broken off");
    },
  });
  const { webhook } = await w.create("https://slow/", { events: ["file.written"] });
  const testing = w.webhooks.test(w.workspace, webhook.id, APPLIANCE);
  while (w.webhooks.stats().inFlight === 0) await Bun.sleep(5);
  await w.webhooks.remove(w.workspace, webhook.id, APPLIANCE);
  const { outcome } = await testing;
  expect(outcome.ok).toBe(false);
  await w.close();
});

test("secrets are sealed in the database, and nowhere in the log", async () => {
  const w = await startTestWebhooks();
  const { webhook, signingSecret } = await w.create("https://h/hook?token=swordfish");
  const { signingSecret: second } = await w.webhooks.rotate(w.workspace, webhook.id, DAY, APPLIANCE);
  w.behaviour.answer = () => ({ status: 500 });
  await w.happen(1);
  await w.settled();
  const { rows } = await w.db.$client.execute(
    "SELECT secret, previous_secret, hex(secret) AS text FROM webhooks",
  );
  const stored = Buffer.concat([
    Buffer.from(rows[0]?.["secret"] as ArrayBuffer),
    Buffer.from(rows[0]?.["previous_secret"] as ArrayBuffer),
  ]).toString("latin1");
  const bodies = await w.db.$client.execute("SELECT body FROM events");
  const told = [...w.logged, ...bodies.rows.map((row) => row["body"] as string)].join("");
  for (const secret of [signingSecret, second]) {
    expect(stored).not.toContain(secret.slice(6, 20));
    expect(told).not.toContain(secret.slice(6, 20));
  }
  expect(told).toContain("https://h/hook?…");
  expect(told).not.toContain("swordfish");
  await w.close();
});
