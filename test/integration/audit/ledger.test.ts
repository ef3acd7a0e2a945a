import { expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "@libsql/client/sqlite3";
import { asc, eq, sql } from "drizzle-orm";
import { GENESIS, linkHash } from "../../../src/audit/chain.ts";
import { APPLIANCE, type Chain, type EventDraft } from "../../../src/audit/event.ts";
import { auditKeys } from "../../../src/audit/keys.ts";
import { verifyAudit } from "../../../src/audit/verify.ts";
import { migrations } from "../../../src/db/migrations.ts";
import { events, heads, intents, workspaces } from "../../../src/db/schema.ts";
import { namespaceId, workspaceId } from "../../../src/ids.ts";
import { startLedger } from "../../fixtures/ledger.ts";

type Started = Awaited<ReturnType<typeof startLedger>>;

const draft = (chain: Chain, n: number): EventDraft => ({
  chain,
  type: "test.happened",
  namespace: null,
  data: { n },
  origin: APPLIANCE,
});

const rowsOf = ({ db }: Started, chain: Chain) =>
  db.select().from(events).where(eq(events.chain, chain)).orderBy(asc(events.createdAt));

/** Every row hangs on the one before, and none is missing. */
async function expectWhole(started: Started, chain: Chain, count: number): Promise<void> {
  const rows = await rowsOf(started, chain);
  expect(rows.map(({ seq }) => seq)).toEqual(Array.from({ length: count }, (_, index) => index + 1));
  let previous = GENESIS;
  for (const { body, hash } of rows) {
    expect(hash).toBe(linkHash(previous, body));
    previous = hash;
  }
  expect(started.ledger.head(chain)?.hash).toBe(previous);
}

test("concurrent writers: each chain is whole, in order, and its times strictly increase", async () => {
  // A clock that stands still and then goes back.
  let calls = 0;
  const started = await startLedger({ now: () => 1_800_000_000_000 - (calls++ > 50 ? 5_000 : 0) });
  const chains: Chain[] = [workspaceId.make(), workspaceId.make(), workspaceId.make()];
  const published = new Map<Chain, number[]>();
  started.ledger.onPublished((fresh) => {
    for (const { chain, seq } of fresh) published.set(chain, [...(published.get(chain) ?? []), seq]);
  });
  const all = Array.from({ length: 300 }, (_, n) => started.ledger.append([draft(chains[n % 3]!, n)]));
  await Promise.all(all);
  for (const chain of chains) {
    await expectWhole(started, chain, 100);
    const times = (await rowsOf(started, chain)).map(({ createdAt }) => createdAt);
    expect(new Set(times).size).toBe(100);
    expect(published.get(chain)).toEqual(Array.from({ length: 100 }, (_, index) => index + 1));
  }
  expect(started.ledger.stats().commits).toBeLessThan(30);
  await started.close();
});

test("a chain goes on where it was after a restart", async () => {
  const chain = workspaceId.make();
  const first = await startLedger();
  await first.ledger.append([draft(chain, 1), draft(chain, 2)]);
  await first.close();
  const second = await startLedger({ dir: first.dir });
  await second.ledger.append([draft(chain, 3)]);
  await expectWhole(second, chain, 3);
  expect(second.logged).toEqual([]);
  await second.close();
});

test("plans see what was committed before: of fifty that want the same name one gets it", async () => {
  const started = await startLedger();
  const id = workspaceId.make();
  const take = () =>
    started.ledger.change(async () => {
      const [taken] = await started.db.select().from(workspaces).where(eq(workspaces.name, "one"));
      if (taken !== undefined) return { statements: [], events: [], result: false };
      const row = { id: workspaceId.make(), name: "one", createdAt: 1 };
      return {
        statements: [started.db.insert(workspaces).values(row)],
        events: [draft(id, 1)],
        result: true,
      };
    });
  const won = await Promise.all(Array.from({ length: 50 }, take));
  expect(won.filter(Boolean)).toHaveLength(1);
  await expectWhole(started, id, 1);
  await started.close();
});

test("a change that the database refuses leaves no event, and takes nobody down with it", async () => {
  const started = await startLedger();
  const chain = workspaceId.make();
  const bad = started.ledger.change(async () => ({
    statements: [{ sql: "INSERT INTO workspaces (id) VALUES ('incomplete')", args: [] }],
    events: [draft(chain, 0)],
    result: null,
  }));
  const good = started.ledger.append([draft(chain, 1)]);
  expect(bad).rejects.toThrow(/NOT NULL/);
  await good;
  await expectWhole(started, chain, 1);
  await started.close();
});

test("one bad member of a group fails alone", async () => {
  const started = await startLedger();
  const chain = workspaceId.make();
  const fraction = started.ledger.append([draft(chain, 0.5)]);
  const good = Array.from({ length: 20 }, (_, n) => started.ledger.append([draft(chain, n)]));
  expect(fraction).rejects.toThrow(/whole numbers/);
  await Promise.all(good);
  await expectWhole(started, chain, 20);
  await started.close();
});

test("an intent becomes one event with its id, or none", async () => {
  const started = await startLedger();
  const chain = workspaceId.make();
  const announced = { ...draft(chain, 0), namespace: "alice", namespaceId: namespaceId.make() };
  const done = await started.ledger.begin(announced);
  const dropped = await started.ledger.begin(announced);
  expect(await started.db.select().from(intents)).toHaveLength(2);
  await done.complete({ n: 7 });
  await dropped.abandon();
  expect(await started.db.select().from(intents)).toEqual([]);
  const rows = await rowsOf(started, chain);
  expect(rows.map(({ id }) => id)).toEqual([done.id]);
  expect(JSON.parse(rows[0]!.body)).toMatchObject({
    id: done.id,
    namespace: "alice",
    data: { n: 7 },
    seq: 1,
  });
  await started.close();
});

const TAMPERING: Record<string, string> = {
  "the newest row is cut": "DELETE FROM events WHERE seq = 3",
  "the newest row is another, with a hash that fits": `UPDATE events SET body = replace(body, '"n":3', '"n":4') WHERE seq = 3`,
  "the head is moved back": `UPDATE heads SET seq = 2, hash = (SELECT hash FROM events WHERE seq = 2),
    created_at = (SELECT created_at FROM events WHERE seq = 2)`,
  "the head is gone": "DELETE FROM heads",
  "all rows are gone": "DELETE FROM events",
};

for (const [what, statement] of Object.entries(TAMPERING)) {
  test(`a start says in the chain itself that ${what}`, async () => {
    const first = await startLedger();
    const chain = workspaceId.make();
    await first.db.insert(workspaces).values({ id: chain, name: "w", createdAt: 1 });
    await first.ledger.append([draft(chain, 1), draft(chain, 2), draft(chain, 3)]);
    await first.db.run(sql.raw(statement));
    if (statement.startsWith("UPDATE events")) {
      const [row] = await first.db.select().from(events).where(eq(events.seq, 3));
      const [before] = await first.db.select().from(events).where(eq(events.seq, 2));
      const hash = linkHash(before!.hash, row!.body);
      await first.db.update(events).set({ hash }).where(eq(events.seq, 3));
    }
    await first.close();
    const second = await startLedger({ dir: first.dir });
    const rows = await rowsOf(second, chain);
    expect(rows.at(-1)?.type).toBe("audit.broken");
    expect(second.logged.join("")).toContain("changed from outside");
    await second.close();
    // Once is enough.
    const third = await startLedger({ dir: first.dir });
    expect(third.logged).toEqual([]);
    await third.close();
  });
}

for (const which of ["a workspace's", "the appliance's"]) {
  test(`a start says that ${which} whole chain is gone`, async () => {
    const first = await startLedger();
    const workspace = workspaceId.make();
    await first.db.insert(workspaces).values({ id: workspace, name: "w", createdAt: 1 });
    await first.ledger.append([draft(workspace, 1), draft("appliance", 2)]);
    const chain = which === "the appliance's" ? "appliance" : workspace;
    for (const table of [events, heads]) await first.db.delete(table).where(eq(table.chain, chain));
    await first.close();
    const second = await startLedger({ dir: first.dir });
    expect((await rowsOf(second, chain)).map(({ type }) => type)).toEqual(["audit.broken"]);
    await second.close();
  });
}

test("the chains of a database from before the audit log begin at the first start with it", async () => {
  const dir = mkdtempSync(join(tmpdir(), "cofferdam-ledger-"));
  const client = createClient({ url: `file:${join(dir, "cofferdam.db")}` });
  const workspace = workspaceId.make();
  await client.batch([
    ...migrations[0]!,
    "CREATE TABLE migrations (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT",
    "INSERT INTO migrations VALUES (1, 1)",
    { sql: "INSERT INTO workspaces VALUES (?, 'w', 1)", args: [workspace] },
  ]);
  client.close();
  for (let start = 1; start <= 2; start++) {
    const started = await startLedger({ dir });
    for (const chain of [workspace, "appliance"] as const) {
      expect((await rowsOf(started, chain)).map(({ type }) => type)).toEqual(["audit.begun"]);
    }
    expect(started.logged).toEqual([]);
    expect(await verifyAudit({ db: started.db, ...auditKeys(started.secrets) })).toMatchObject({ ok: true });
    await started.close();
  }
});
