import { expect, test } from "bun:test";
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { sql } from "drizzle-orm";
import { workspaces } from "../../../src/db/schema.ts";
import { copyFromServer, fillServer } from "../../../src/db/server/transfer.ts";
import { openCopy, type Database } from "../../../src/db/open.ts";
import { tablesOf } from "../../../src/db/rows.ts";
import { createKeys } from "../../../src/keys/keys.ts";
import { createCalls } from "../../../src/keys/calls.ts";
import { createWorkspaces } from "../../../src/keys/workspaces.ts";
import { APPLIANCE } from "../../../src/audit/event.ts";
import { allEvents } from "../../fixtures/chain.ts";
import { startLedger } from "../../fixtures/ledger.ts";
import { draftOf } from "../../fixtures/log.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { openHost, startServerLedger } from "../../fixtures/server-ledger.ts";
import { startSqld } from "../../fixtures/sqld.ts";

/** Everything, in order. */
async function contents(db: Pick<Database, "$client" | "all">) {
  const tables = await tablesOf(db.$client);
  return Object.fromEntries(
    await Promise.all(
      tables.map(async ({ name, columns, key }) => [
        name,
        await db.all(sql.raw(`SELECT ${columns.join(", ")} FROM ${name} ORDER BY ${key.join(", ")}`)),
      ]),
    ),
  ) as Record<string, unknown[]>;
}

test("a file's database moves to a server and back, row for row, and its chain goes on", async () => {
  using scratch = scratchDirectory();
  await using server = await startSqld();
  const local = await startLedger({ dir: scratch.path });
  const { db, ledger } = local;
  const keys = createKeys({ db, ledger, calls: createCalls() });
  const workspace = await createWorkspaces({ db, ledger }).create("w", APPLIANCE);
  const key = { workspaceId: workspace.id, name: "k", scope: "admin", namespace: null } as const;
  const { apiKey } = await keys.create(key, APPLIANCE);
  // More than a page, and what bytes and quotes make of it.
  for (let n = 0; n < 450; n++) {
    void ledger.append([draftOf(workspace.id, n, { data: { n, text: `it's "${n}" \\ é ☃` } })]);
  }
  await ledger.append([draftOf("appliance", 1)]);
  await db.run(sql`
    INSERT INTO webhooks (id, workspace_id, url, events, created_at, state, starts_after, secret)
    VALUES ('wh-1', ${workspace.id}, 'u', '[]', 1, 'disabled', 0, x'00ff27')`);
  const before = await contents(db);
  expect(before["events"]?.length).toBeGreaterThan(450);

  const credentials = { token: null, ca: null };
  await fillServer(db.$client, { url: server.url, credentials });
  // As if it had been cut short before: once more, from the start.
  const rows = await fillServer(db.$client, { url: server.url, credentials });
  expect(rows).toBe(Object.values(before).reduce((sum, { length }) => sum + length, 0));
  await local.close();

  const remote = await startServerLedger(server.url);
  expect(remote.ledger.breaks).toEqual([]);
  const there = createKeys({ db: remote.db, ledger: remote.ledger, calls: createCalls() });
  expect((await there.authenticate(apiKey))?.workspaceId).toBe(workspace.id);
  expect(await contents(remote.db)).toEqual(before);
  await remote.ledger.append([draftOf(workspace.id, 451)]);
  expect((await allEvents(remote.db)).at(-1)?.data).toMatchObject({ n: 451 });

  // And back, while it goes on being written to: one moment.
  const copy = join(scratch.path, "copy.db");
  const now = await contents(remote.db);
  const copying = copyFromServer(remote.db, copy);
  await remote.db.insert(workspaces).values({ ...workspace, id: "ws-later" as never });
  await copying;
  const opened = await openCopy(copy);
  const found: Record<string, unknown[]> = await contents(opened);
  const later = (rows: unknown[] = []) => rows.filter((row) => !JSON.stringify(row).includes("ws-later"));
  expect<object>({ ...found, workspaces: later(found["workspaces"]) }).toEqual(now);
  await allEvents(opened);
  opened.close();
  expect(statSync(copy).mode & 0o777).toBe(0o600);
  expect(statSync(`${copy}-wal`, { throwIfNoEntry: false })?.size ?? 0).toBe(0);
  await remote.close();
});

test("a server's database that an appliance uses, or that holds something else, is not filled", async () => {
  using scratch = scratchDirectory();
  const local = await startLedger({ dir: scratch.path });
  const credentials = { token: null, ca: null };
  const fill = (url: string) => fillServer(local.db.$client, { url, credentials });
  {
    await using used = await startSqld();
    const { db } = await openHost(used.url);
    await db.close();
    expect(fill(used.url)).rejects.toThrow("An appliance works with the database");
    await fill(used.url).catch(() => {});
  }
  {
    await using other = await startSqld();
    await fetch(`${other.url}/v2/pipeline`, {
      method: "POST",
      body: JSON.stringify({ requests: [{ type: "execute", stmt: { sql: "CREATE TABLE theirs (a)" } }] }),
    });
    expect(fill(other.url)).rejects.toThrow("holds something else");
    await fill(other.url).catch(() => {});
  }
  await local.close();
  expect(readdirSync(scratch.path)).toContain("cofferdam.db");
});
