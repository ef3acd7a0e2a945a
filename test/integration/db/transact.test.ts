import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openDatabase } from "../../../src/db/open.ts";
import { intents } from "../../../src/db/schema.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const put = (id: string) => ({
  sql: "INSERT INTO intents (id, begun_at, namespace_id, draft) VALUES (?, ?, ?, ?)",
  args: [id, 1, "n", "{}"],
});
const refusal = (work: () => void): string => {
  try {
    work();
  } catch (error) {
    return (error as { code?: string }).code ?? "";
  }
  return "none";
};

test("all of a transaction or nothing, whatever fails in it, and the next one goes on", async () => {
  using scratch = scratchDirectory();
  const db = await openDatabase(join(scratch.path, "cofferdam.db"));
  const ids = async () => (await db.select({ id: intents.id }).from(intents)).map(({ id }) => id as string);
  db.transact([put("a"), put("b")]);
  expect(refusal(() => db.transact([put("c"), put("a")]))).toBe("SQLITE_CONSTRAINT_PRIMARYKEY");
  expect(refusal(() => db.transact([put("d"), { sql: "nonsense", args: [] }]))).toBe("SQLITE_ERROR");
  // Foreign keys hold on this connection too.
  const orphan = {
    sql: "INSERT INTO namespaces (id, workspace_id, name, created_at, last_used_at) VALUES ('n', 'w', 'n', 1, 1)",
    args: [],
  };
  expect(refusal(() => db.transact([put("e"), orphan]))).toBe("SQLITE_CONSTRAINT_FOREIGNKEY");
  db.transact([put("f")]);
  expect(await ids()).toEqual(["a", "b", "f"]);
  db.close();
});

test("both connections write in turn, and each sees at once what the other did", async () => {
  using scratch = scratchDirectory();
  const db = await openDatabase(join(scratch.path, "cofferdam.db"));
  const others = Array.from({ length: 200 }, async (_, n) =>
    db
      .insert(intents)
      .values({ id: `other-${n}` as never, begunAt: n, namespaceId: "n" as never, draft: "{}" }),
  );
  for (let n = 0; n < 200; n++) {
    db.transact([put(`mine-${n}`)]);
    if (n % 10 === 0) await new Promise((resolve) => setImmediate(resolve));
    expect((await db.select({ id: intents.id }).from(intents)).length).toBeGreaterThan(n);
  }
  await Promise.all(others);
  expect((await db.select({ id: intents.id }).from(intents)).length).toBe(400);
  expect(await db.faults()).toEqual([]);
  db.close();
});

test("what was deleted is not in the file any more, once the log has begun anew", async () => {
  using scratch = scratchDirectory();
  const file = join(scratch.path, "cofferdam.db");
  const db = await openDatabase(file);
  const written = async () => {
    await db.$client.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    return readFileSync(file, "latin1");
  };
  const left = async () => {
    const bytes = await written();
    return ["kept", "deleted", "removed"].filter((id) => bytes.includes(`row-${id}`));
  };
  for (const id of ["kept", "deleted", "removed"]) db.transact([put(`row-${id}`)]);
  expect(await left()).toEqual(["kept", "deleted", "removed"]);
  // By either connection.
  db.transact([{ sql: "DELETE FROM intents WHERE id = 'row-deleted'", args: [] }]);
  expect(await left()).toEqual(["kept", "removed"]);
  await db.run("DELETE FROM intents WHERE id = 'row-removed'");
  expect(await left()).toEqual(["kept"]);
  db.close();
});
