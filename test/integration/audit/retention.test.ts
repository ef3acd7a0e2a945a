import { expect, test } from "bun:test";
import { asc, eq, sql } from "drizzle-orm";
import { auditKeys } from "../../../src/audit/keys.ts";
import { createRetention } from "../../../src/audit/retention.ts";
import { events, checkpoints } from "../../../src/db/schema.ts";
import { append, startAudit, verified } from "../../fixtures/audit.ts";
import { startLedger } from "../../fixtures/ledger.ts";

const DAY_MS = 24 * 60 * 60_000;
type Audit = Awaited<ReturnType<typeof startAudit>>;

function retention(
  { db, ledger, secrets }: Audit,
  limits: { retention_days: number; max_events: number },
  now = Date.now(),
) {
  return createRetention({
    db,
    ledger,
    signer: auditKeys(secrets).signer,
    limits: () => limits,
    now: () => now,
  });
}

const kept = async ({ db, chain }: Audit) =>
  (
    await db.select({ seq: events.seq }).from(events).where(eq(events.chain, chain)).orderBy(asc(events.seq))
  ).map(({ seq }) => seq);

test("by age: what is older goes, the rest stays and is proved from a checkpoint", async () => {
  const start = Date.now();
  const audit = await startAudit(1200, start);
  // The last 200 minutes' are younger than a day.
  const limits = { retention_days: 1, max_events: 0 };
  expect(await retention(audit, limits, start + 1000 * 60_000 + DAY_MS - 1).apply()).toBe(1000);
  expect((await kept(audit))[0]).toBe(1001);
  expect((await verified(audit)).ok).toBe(true);
  const [checkpoint] = await audit.db.select().from(checkpoints);
  expect(checkpoint).toMatchObject({ chain: audit.chain, seq: 1000 });
  await append(audit, audit.chain, 1201);
  expect((await verified(audit)).ok).toBe(true);
  await audit.close();
});

test("by count, again and again", async () => {
  const audit = await startAudit(30);
  const limits = { retention_days: 3650, max_events: 10 };
  expect(await retention(audit, limits).apply()).toBe(20);
  expect(await retention(audit, limits).apply()).toBe(0);
  for (let n = 31; n <= 35; n++) await append(audit, audit.chain, n);
  expect(await retention(audit, limits).apply()).toBe(5);
  expect(await kept(audit)).toEqual([26, 27, 28, 29, 30, 31, 32, 33, 34, 35]);
  expect((await verified(audit)).ok).toBe(true);
  await audit.close();
});

test("the newest stays, however old it is, and the chain goes on from it after a restart", async () => {
  const audit = await startAudit(5);
  expect(
    await retention(audit, { retention_days: 1, max_events: 0 }, Date.now() + 100 * DAY_MS).apply(),
  ).toBe(4);
  expect(await kept(audit)).toEqual([5]);
  await audit.close();
  const again = { ...(await startLedger({ dir: audit.dir })), chain: audit.chain };
  expect(again.logged).toEqual([]);
  await append(again, again.chain, 6);
  expect(await kept(again)).toEqual([5, 6]);
  expect((await verified(again)).ok).toBe(true);
  await again.close();
});

test("a checkpoint that was changed is found", async () => {
  const audit = await startAudit(10);
  await retention(audit, { retention_days: 3650, max_events: 5 }).apply();
  expect((await verified(audit)).ok).toBe(true);
  await audit.db.update(checkpoints).set({ cutAt: 1 });
  expect(await verified(audit)).toMatchObject({ ok: false });
  await audit.close();
});

test("events that were made older for it to remove leave word of that, once", async () => {
  const audit = await startAudit(10);
  await audit.db.run(sql`UPDATE events SET created_at = seq WHERE seq < 10 AND chain = ${audit.chain}`);
  await retention(audit, { retention_days: 7, max_events: 0 }).apply();
  expect(await kept(audit)).toEqual([10, 11]);
  const [, last] = await audit.db
    .select()
    .from(events)
    .where(eq(events.chain, audit.chain))
    .orderBy(asc(events.seq));
  expect(JSON.parse(last!.body)).toMatchObject({ type: "audit.broken" });
  expect(await verified(audit)).toMatchObject({ ok: false });
  // The word of it goes as all do.
  await append(audit, audit.chain, 12);
  await retention(audit, { retention_days: 7, max_events: 1 }).apply();
  expect(await kept(audit)).toEqual([12]);
  await audit.close();
});
