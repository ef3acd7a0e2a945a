import { expect, test } from "bun:test";
import { asc, eq, sql } from "drizzle-orm";
import { GENESIS, headMac, linkHash } from "../../../src/audit/chain.ts";
import { checkpoints, events, heads } from "../../../src/db/schema.ts";
import { createRetention } from "../../../src/audit/retention.ts";
import { createSigner } from "../../../src/audit/signer.ts";
import { auditKeys } from "../../../src/audit/keys.ts";
import { append, startAudit, verified } from "../../fixtures/audit.ts";

type Audit = Awaited<ReturnType<typeof startAudit>>;

const rows = ({ db, chain }: Audit) =>
  db.select().from(events).where(eq(events.chain, chain)).orderBy(asc(events.createdAt));

/** As one would who can write to the database and knows how it works, but has no key. */
async function relink(audit: Audit): Promise<void> {
  let previous = GENESIS;
  for (const row of await rows(audit)) {
    previous = linkHash(previous, row.body);
    await audit.db.update(events).set({ hash: previous }).where(eq(events.id, row.id));
  }
  await audit.db.update(heads).set({ hash: previous });
}

const run = (text: string) => (audit: Audit) => audit.db.run(sql.raw(text));

const TAMPERING: Record<string, { how: (audit: Audit) => Promise<unknown>; reason: RegExp }> = {
  "a word in one": {
    how: run(`UPDATE events SET body = replace(body, '"n":5', '"n":6') WHERE seq = 5`),
    reason: /hash does not follow/,
  },
  "one that is gone": {
    how: run("DELETE FROM events WHERE seq = 5"),
    reason: /1 events before it are missing/,
  },
  "the first that is gone": { how: run("DELETE FROM events WHERE seq = 1"), reason: /missing/ },
  "the newest that are gone": { how: run("DELETE FROM events WHERE seq > 8"), reason: /cut or changed/ },
  "all that are gone": { how: run("DELETE FROM events"), reason: /cut or changed/ },
  "two in another order": {
    how: async ({ db, chain }) => {
      const swap = (from: number, to: number) =>
        db.run(
          sql`UPDATE events SET seq = ${to}, created_at = (SELECT 1) + ${to} WHERE chain = ${chain} AND seq = ${from}`,
        );
      await swap(5, 1000);
      await swap(6, 5);
      await swap(1000, 6);
    },
    reason: /missing|hash does not follow|created_at/,
  },
  "its type for the filters": {
    how: run("UPDATE events SET type = 'other.thing' WHERE seq = 5"),
    reason: /type in the database is not the one/,
  },
  "its namespace for the filters": {
    how: run("UPDATE events SET namespace = 'bob' WHERE seq = 5"),
    reason: /namespace in the database is not the one/,
  },
  "one added at the end": {
    how: run(
      "INSERT INTO events SELECT chain, created_at + 5, seq + 1, 'evt-forged', type, namespace, body, hash FROM events WHERE seq = 10",
    ),
    reason: /behind the end/,
  },
  "a rewritten chain, its hashes and its head": {
    how: async (audit) => {
      await run(`UPDATE events SET body = replace(body, '"n":5', '"n":6') WHERE seq = 5`)(audit);
      await relink(audit);
    },
    reason: /MAC/,
  },
  "a rewritten chain with a MAC by another key": {
    how: async (audit) => {
      await run(`UPDATE events SET body = replace(body, '"n":5', '"n":6') WHERE seq = 5`)(audit);
      await relink(audit);
      const [{ mac: _mac, ...head }] = (await audit.db.select().from(heads)) as [typeof heads.$inferSelect];
      await audit.db.update(heads).set({ mac: headMac(new Uint8Array(32), head) });
    },
    reason: /MAC/,
  },
  "a head moved back with its rows": {
    how: async (audit) => {
      await run("DELETE FROM events WHERE seq > 8")(audit);
      await relink(audit);
      await run("UPDATE heads SET seq = 8")(audit);
    },
    reason: /MAC/,
  },
  "the head that is gone": { how: run("DELETE FROM heads"), reason: /head is missing/ },
  "everything of the workspace that is gone": {
    how: async (audit) => {
      await run("DELETE FROM events")(audit);
      await run("DELETE FROM heads")(audit);
    },
    reason: /head is missing/,
  },
  "one of a workspace that never was": {
    how: run(
      `INSERT INTO events SELECT 'ws-none', created_at, seq, 'evt-forged', type, namespace, body, hash
       FROM events WHERE seq = 2`,
    ),
    reason: /head is missing/,
  },
  "a made-up checkpoint in place of the first ones": {
    how: async ({ db, chain }) => {
      const [row] = await db.select().from(events).where(eq(events.seq, 3));
      const { seq, createdAt, hash } = row!;
      const signature = createSigner(new Uint8Array(32).fill(1)).sign("anything");
      await db.insert(checkpoints).values({ chain, seq, createdAt, hash, cutAt: 1, signature });
      await db.run(sql`DELETE FROM events WHERE seq <= 3`);
    },
    reason: /not signed by this appliance/,
  },
};

for (const [what, { how, reason }] of Object.entries(TAMPERING)) {
  for (const running of [true, false]) {
    test(`${running ? "the running appliance" : "who has a copy and the key"} finds ${what}`, async () => {
      const audit = await startAudit(10);
      expect(
        (await verified(audit, running)).workspaces.find((one) => one.workspace_id === audit.chain),
      ).toEqual({ workspace_id: audit.chain, ok: true, events: 10, first_bad: null });
      await how(audit);
      const { ok, workspaces } = await verified(audit, running);
      expect(ok).toBe(false);
      const reasons = workspaces.map(({ first_bad }) => first_bad?.reason);
      expect(reasons).toContainEqual(expect.stringMatching(reason));
      await audit.close();
    });
  }
}

test("the first broken one is named", async () => {
  const audit = await startAudit(10);
  const [fifth] = await audit.db.select().from(events).where(eq(events.seq, 5));
  await run(`UPDATE events SET body = replace(body, '"n":', '"m":') WHERE seq >= 5`)(audit);
  const { workspaces } = await verified(audit);
  expect(workspaces.find(({ ok }) => !ok)).toMatchObject({ events: 4, first_bad: { event_id: fifth!.id } });
  await audit.close();
});

test("a database put back to an older state is found by who remembers a later one", async () => {
  const audit = await startAudit(5);
  const ours = eq(heads.chain, audit.chain);
  const [old] = await audit.db.select().from(heads).where(ours);
  await append(audit, audit.chain, 6);
  await run("DELETE FROM events WHERE seq = 6")(audit);
  await audit.db.update(heads).set(old!).where(ours);
  expect((await verified(audit)).ok).toBe(false);
  await audit.close();
});

test("while events are written and old ones go, it finds nothing wrong", async () => {
  const audit = await startAudit(1500);
  const limits = { retention_days: 3650, max_events: 1500 };
  const { signer } = auditKeys(audit.secrets);
  const retention = createRetention({ ...audit, signer, limits: () => limits });
  const writing = (async () => {
    for (let n = 0; n < 300; n++) {
      await append(audit, audit.chain, n);
      if (n % 30 === 0) await retention.apply();
    }
  })();
  for (let round = 0; round < 10; round++) expect(await verified(audit)).toMatchObject({ ok: true });
  await writing;
  await retention.apply();
  const report = await verified(audit);
  expect(report.workspaces.find((one) => one.workspace_id === audit.chain)).toMatchObject({
    ok: true,
    events: 1500,
  });
  await audit.close();
});
