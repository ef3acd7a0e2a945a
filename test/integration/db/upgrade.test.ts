import { expect, test } from "bun:test";
import { copyFileSync, existsSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { sql } from "drizzle-orm";
import { migrations } from "../../../src/db/migrations.ts";
import { openCopy, openDatabase } from "../../../src/db/open.ts";
import { laterSteps } from "../../fixtures/upgrade-process.ts";
import { seededRandom } from "../../fixtures/random.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const UPGRADE = resolve(import.meta.dir, "../../fixtures/upgrade-process.ts");
const OLD = migrations.length;
const NEW = laterSteps.length;
const ROWS = 3_000;
const ROUNDS = 6;

/** A database of today's version with something in it. */
async function makeOld(file: string): Promise<void> {
  const db = await openDatabase(file);
  await db.run(sql`
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${ROWS})
    INSERT INTO events SELECT 'appliance', i, i, 'evt-' || i, 't', NULL, hex(randomblob(150)), 'h' FROM n`);
  db.close();
}

/** Opened as it is, without an upgrade: its version, its rows, and how many of them are changed. */
async function lookAt(file: string) {
  const db = await openCopy(file);
  try {
    const [row] = await db.all<{ version: number; rows: number; changed: number; faults: string }>(sql`
      SELECT (SELECT max(version) FROM migrations) AS version, count(*) AS rows,
        count(*) FILTER (WHERE body LIKE '%!') AS changed,
        (SELECT group_concat(integrity_check) FROM pragma_integrity_check) AS faults FROM events`);
    const [tables] = await db.all<{ later: number }>(
      sql`SELECT count(*) AS later FROM sqlite_schema WHERE name IN ('later', 'events_body')`,
    );
    return { ...row, ...tables };
  } finally {
    db.close();
  }
}

/** As a killed process would leave it. */
function copyWithLog(from: string, to: string): void {
  for (const end of ["", "-wal"]) if (existsSync(from + end)) copyFileSync(from + end, to + end);
}

const old = { version: OLD, rows: ROWS, changed: 0, later: 0, faults: "ok" };
const upgraded = { version: NEW, rows: ROWS, changed: ROWS, later: 2, faults: "ok" };
const copiesIn = (dir: string) => readdirSync(dir).filter((name) => name.includes(".before-"));

test("an upgrade keeps a copy of the database from before, like it in content and mode", async () => {
  using scratch = scratchDirectory();
  const file = join(scratch.path, "cofferdam.db");
  await makeOld(file);
  // The process before was killed: not all of it is in the file yet.
  const dirty = await openDatabase(file);
  await dirty.run(sql`UPDATE events SET hash = 'late' WHERE seq = 7`);
  const killed = join(scratch.path, "killed.db");
  copyWithLog(file, killed);
  dirty.close();

  const told: number[] = [];
  const db = await openDatabase(killed, { steps: laterSteps, onUpgrade: (version) => told.push(version) });
  db.close();
  expect(told).toEqual([NEW]);
  expect(await lookAt(killed)).toEqual(upgraded);
  const copy = `${killed}.before-${NEW}`;
  expect(await lookAt(copy)).toEqual(old);
  const late = await openCopy(copy);
  expect(await late.all(sql`SELECT hash FROM events WHERE seq = 7`)).toEqual([{ hash: "late" }]);
  late.close();
  expect(statSync(copy).mode & 0o777).toBe(0o600);
  expect(readdirSync(scratch.path).filter((name) => name.includes("copying"))).toEqual([]);
});

test("only the last two copies are kept, and neither a new database nor a restart makes one", async () => {
  using scratch = scratchDirectory();
  const file = join(scratch.path, "cofferdam.db");
  await makeOld(file);
  (await openDatabase(file)).close();
  expect(copiesIn(scratch.path)).toEqual([]);
  // What else lies there is nobody's copy.
  writeFileSync(`${file}.before-the-move`, "");
  const steps = [...migrations];
  for (let version = OLD + 1; version <= OLD + 4; version++) {
    steps.push([`CREATE TABLE t${version} (a) STRICT`.replace("(a)", "(a TEXT)")]);
    (await openDatabase(file, { steps })).close();
  }
  expect(copiesIn(scratch.path).toSorted()).toEqual(
    [`before-${OLD + 3}`, `before-${OLD + 4}`, "before-the-move"].map((end) => `cofferdam.db.${end}`),
  );
});

test("without room for the copy nothing is changed, and it says how much that takes", async () => {
  using scratch = scratchDirectory();
  const file = join(scratch.path, "cofferdam.db");
  await makeOld(file);
  const opened = openDatabase(file, { steps: laterSteps, freeBytes: () => 10 * 1024 * 1024 });
  expect(opened).rejects.toThrow(/takes \d+ MiB of free disk, and .* has 10; free some/);
  await opened.catch(() => {});
  expect(await lookAt(file)).toEqual(old);
  expect(copiesIn(scratch.path)).toEqual([]);
});

test("a step that fails leaves the database as it was, and so do the steps before it", async () => {
  using scratch = scratchDirectory();
  const file = join(scratch.path, "cofferdam.db");
  await makeOld(file);
  const opened = openDatabase(file, { steps: [...laterSteps, ["CREATE nonsense"]] });
  expect(opened).rejects.toThrow(/nonsense/);
  await opened.catch(() => {});
  expect(await lookAt(file)).toEqual(old);
});

test("killed anywhere in an upgrade it is the old one or the new one, and the next start ends it", async () => {
  const seed = Number(process.env.SEED ?? Date.now());
  const random = seededRandom(seed);
  using scratch = scratchDirectory();
  const original = join(scratch.path, "original.db");
  await makeOld(original);

  /** How long it took from its first word, or null when it was killed. */
  async function run(file: string, killAfterMs: number | null): Promise<number | null> {
    const child = Bun.spawn([process.execPath, UPGRADE, file], { stdout: "pipe", stderr: "inherit" });
    const reader = child.stdout.getReader();
    await reader.read();
    const began = performance.now();
    if (killAfterMs !== null) {
      await Bun.sleep(killAfterMs);
      child.kill("SIGKILL");
    }
    await child.exited;
    return child.exitCode === 0 ? performance.now() - began : null;
  }

  const whole = join(scratch.path, "whole.db");
  copyWithLog(original, whole);
  const takesMs = await run(whole, null);
  if (takesMs === null) throw new Error("an upgrade that nobody killed did not end");
  const seen = { old: 0, new: 0, copied: 0 };
  for (let round = 0; round < ROUNDS; round++) {
    const file = join(scratch.path, `${round}.db`);
    copyWithLog(original, file);
    // Spread over all of it.
    await run(file, (takesMs * (round + random.int(100) / 100)) / ROUNDS);
    const copy = `${file}.before-${NEW}`;
    if (existsSync(copy)) {
      seen.copied++;
      expect(await lookAt(copy)).toEqual(old);
    }
    const found = await lookAt(file);
    const isNew = found.version === NEW;
    seen[isNew ? "new" : "old"]++;
    expect({ seed, round, ...found }).toEqual({ seed, round, ...(isNew ? upgraded : old) });
    if (isNew) expect(existsSync(copy)).toBe(true);
    (await openDatabase(file, { steps: laterSteps })).close();
    expect(await lookAt(file)).toEqual(upgraded);
    expect(await lookAt(copy)).toEqual(old);
  }
  // Some of the kills came before the copy was whole, and some between it and the end.
  expect(seen.copied).toBeGreaterThan(0);
  expect(seen.old).toBeGreaterThan(0);
}, 60_000);
