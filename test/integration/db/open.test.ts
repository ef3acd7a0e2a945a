import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sql } from "drizzle-orm";
import { openDatabase } from "../../../src/db/open.ts";
import { keys, namespaces, workspaces } from "../../../src/db/schema.ts";
import { keyId, namespaceId, workspaceId } from "../../../src/ids.ts";

let dir: string;
let file: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "cofferdam-db-"));
  file = join(dir, "cofferdam.db");
});
afterEach(() => rmSync(dir, { recursive: true }));

const open = () => openDatabase(file);

test("a new database has the tables as drizzle sees them, is well, and is its owner's alone", async () => {
  const db = await open();
  const workspace = { id: workspaceId.make(), name: "w", createdAt: 1 };
  const namespace = {
    id: namespaceId.make(),
    workspaceId: workspace.id,
    name: "n",
    createdAt: 2,
    lastUsedAt: 3,
    deletingAt: null,
    wrappedKey: Buffer.of(1, 2, 3),
    usageBytes: 5,
    usageFiles: 6,
    usageDirectories: 7,
    usageAt: null,
    claimedEpoch: 0,
  };
  const key = {
    id: keyId.make(),
    workspaceId: workspace.id,
    name: "k",
    scope: "workspace" as const,
    namespaceId: namespace.id,
    prefix: "p",
    hash: "h",
    createdAt: 4,
    lastUsedAt: null,
    revokedAt: null,
  };
  await db.insert(workspaces).values(workspace);
  await db.insert(namespaces).values(namespace);
  await db.insert(keys).values(key);
  expect(await db.select().from(workspaces)).toEqual([workspace]);
  expect(await db.select().from(namespaces)).toEqual([namespace]);
  expect(await db.select().from(keys)).toEqual([key]);
  expect(await db.faults()).toEqual([]);
  expect(statSync(file).mode & 0o777).toBe(0o600);
  db.close();
});

test("opened again it keeps what it has; commits are flushed by sync", async () => {
  const first = await open();
  await first.insert(workspaces).values({ id: workspaceId.make(), name: "kept", createdAt: 1 });
  first.close();
  const second = await open();
  expect((await second.select().from(workspaces)).map((row) => row.name)).toEqual(["kept"]);
  expect(await second.all(sql`PRAGMA synchronous`)).toMatchObject([{ synchronous: 1 }]);
  await Promise.all([second.sync(), second.sync(), second.sync()]);
  expect(await second.all(sql`PRAGMA journal_mode`)).toMatchObject([{ journal_mode: "wal" }]);
  second.close();
});

test("foreign keys hold", async () => {
  const db = await open();
  const orphan = {
    id: namespaceId.make(),
    workspaceId: workspaceId.make(),
    name: "n",
    createdAt: 1,
    lastUsedAt: 1,
  };
  expect(db.insert(namespaces).values(orphan).run()).rejects.toThrow();
  db.close();
});

test("a newer database is refused with a sentence", async () => {
  const db = await open();
  await db.run(sql`INSERT INTO migrations VALUES (999, 0)`);
  db.close();
  expect(open()).rejects.toThrow(/is of a newer Cofferdam \(version 999/);
});

test("a file that is no database is refused", () => {
  writeFileSync(file, "not a database, but long enough to be looked at as one".repeat(100));
  expect(open()).rejects.toThrow(/not a database/);
});
