import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { Database } from "bun:sqlite";
import { copyFileSync, mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { APPLIANCE, type Chain } from "../../../src/audit/event.ts";
import { createSecrets } from "../../../src/secrets.ts";
import { startCliApi } from "../../fixtures/cli-api.ts";

setDefaultTimeout(60_000);

const { db, ledger, cofferdam, json, stop, instance, masterKey } = await startCliApi();
afterAll(() => stop());
const dir = mkdtempSync("/scratch/events-");
writeFileSync(instance.masterKeyFile, masterKey);

const { workspace_id: chain } = (await json(["workspace", "create", "main"])) as { workspace_id: Chain };
for (let n = 1; n <= 20; n++) {
  await ledger.append([{ chain, type: "test.happened", namespace: null, data: { n }, origin: APPLIANCE }]);
}

/** All of it in one file, as a backup has it. */
async function copy(name: string, change = ""): Promise<string> {
  await db.$client.execute("PRAGMA wal_checkpoint(TRUNCATE)");
  const file = join(dir, name);
  copyFileSync(instance.api.database, file);
  const copied = new Database(file);
  copied.run(change === "" ? "SELECT 1" : change);
  copied.close();
  return file;
}

test("verify tells of every chain, in a table and as JSON", async () => {
  const { code, stdout } = await cofferdam(["event", "verify"]);
  expect({ code, stdout }).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^WORKSPACE +EVENTS +RESULT\n[\s\S]*whole[\s\S]*No event was changed/),
  });
  const report = await json(["event", "verify"]);
  expect(report).toMatchObject({ ok: true });
  expect(report["workspaces"]).toContainEqual(
    expect.objectContaining({ workspace_id: chain, ok: true, first_bad: null }),
  );
  expect(await json(["event", "verify", "--workspace", "main"])).toMatchObject({
    ok: true,
    workspaces: [{ workspace_id: chain }],
  });
});

test("verify of a copy: exit 1 and the first broken event when one was changed", async () => {
  expect((await cofferdam(["event", "verify", "--database", await copy("good.db")])).code).toBe(0);
  const bad = await copy("bad.db", `UPDATE events SET body = replace(body, '"n":7', '"n":8')`);
  const { id } = new Database(bad)
    .query(`SELECT id FROM events WHERE body LIKE '%"n":8%' ORDER BY seq`)
    .get() as {
    id: string;
  };
  const { code, stdout } = await cofferdam(["event", "verify", "--database", bad, "--json"]);
  expect(code).toBe(1);
  const { ok, workspaces } = JSON.parse(stdout) as { ok: boolean; workspaces: object[] };
  expect(ok).toBe(false);
  expect(workspaces).toContainEqual(
    expect.objectContaining({
      workspace_id: chain,
      ok: false,
      first_bad: { event_id: id, reason: expect.any(String) },
    }),
  );
  expect((await cofferdam(["event", "verify", "--database", bad])).stdout).toContain(`broken at ${id}`);
});

test("verify of a copy needs the right key, a database, and not the live one", async () => {
  const good = await copy("again.db");
  const other = join(dir, "other.key");
  writeFileSync(other, new Uint8Array(32));
  const wrong = await cofferdam(["event", "verify", "--database", good, "--master-key", other]);
  expect(wrong).toMatchObject({ code: 1, stdout: expect.stringContaining("MAC") });
  writeFileSync(other, "short");
  expect(await cofferdam(["event", "verify", "--database", good, "--master-key", other])).toMatchObject({
    code: 2,
    stderr: expect.stringContaining("is no master key"),
  });
  writeFileSync(join(dir, "text.db"), "hello");
  for (const [file, said] of [
    [join(dir, "none.db"), "There is no database"],
    [join(dir, "text.db"), "is no database of Cofferdam's"],
    [instance.api.database, "is in use"],
  ] as const) {
    const { code, stderr } = await cofferdam(["event", "verify", "--database", file]);
    expect(code).toBeGreaterThan(0);
    expect(stderr).toContain(said);
  }
});

test("export writes every event as a line between its begin and its signed end; key shows the public key", async () => {
  const { stdout } = await cofferdam(["event", "export"]);
  const lines = stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, { type?: string } | null>);
  expect(lines[0]).toEqual({ begin: null });
  expect(lines.at(-1)).toMatchObject({ end: { signed: { chain } } });
  expect(lines.filter((line) => line["event"]?.type === "test.happened")).toHaveLength(20);
  expect((await cofferdam(["event", "key"])).stdout).toStartWith("-----BEGIN PUBLIC KEY-----\n");
  expect((await cofferdam(["event", "export", "--appliance", "--workspace", "main"])).code).toBe(2);
  // Nothing of the keys is in what was said.
  expect(stdout).not.toContain(Buffer.from(createSecrets(masterKey).derive("audit head")).toString("hex"));
});
