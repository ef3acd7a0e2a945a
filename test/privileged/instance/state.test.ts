import { afterAll, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import {
  chownSync,
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { Instance } from "../../../src/instance/instance.ts";
import { constants } from "../../../src/kernel/openat2.ts";
import { openOwned } from "../../../src/kernel/owned.ts";
import { roleUser } from "../../../src/kernel/users.ts";
import { showPresence } from "../../../src/instance/presence.ts";
import { createInstance } from "../../../src/instance/setup.ts";
import { closeState, openState } from "../../../src/instance/state.ts";
import { moveDatabase, type MoveStep } from "../../../src/instance/state-move.ts";
import { makeDisk } from "../../fixtures/encrypted-disk.ts";
import { ensureUsers } from "../../fixtures/users.ts";

ensureUsers();
const disk = makeDisk();
const bare = makeDisk({ encrypt: false });
afterAll(() => [disk, bare].forEach((each) => each.remove()));
const secret = crypto.getRandomValues(new Uint8Array(32));

function instanceOn({ path }: { path: string }): Instance {
  return createInstance(join(path, `data-${crypto.randomUUID().slice(0, 8)}`));
}

/** As an earlier version left it after a crash: half of it in the write-ahead log only. */
function plantDatabase({ api }: Instance, text: string): void {
  const work = `/scratch/work-${crypto.randomUUID()}.db`;
  const db = new Database(work);
  db.run("PRAGMA journal_mode = WAL");
  db.run("CREATE TABLE t (x)");
  db.run("INSERT INTO t VALUES (?)", [`checkpointed-${text}`]);
  db.run("PRAGMA wal_checkpoint(TRUNCATE)");
  db.run("INSERT INTO t VALUES (?)", [`logged-${text}`]);
  const { uid, gid } = roleUser("cofferdam");
  for (const suffix of ["", "-wal", "-shm"]) {
    copyFileSync(work + suffix, join(api.dir, `cofferdam.db${suffix}`));
    chownSync(join(api.dir, `cofferdam.db${suffix}`), uid, gid);
  }
  writeFileSync(join(api.dir, "cofferdam.db.before-9"), "an older copy");
  db.close();
}

function rowsOf({ api }: Instance): unknown[] {
  const db = new Database(api.database, { readwrite: true, create: false });
  const rows = db.query("SELECT x FROM t ORDER BY rowid").values().flat();
  db.close();
  return rows;
}

test("the appliance's files are under its key, readable from its start to its end only", async () => {
  const instance = instanceOn(disk);
  await openState(instance, secret);
  const { uid } = roleUser("cofferdam");
  expect([statSync(instance.api.state).uid, statSync(instance.api.state).mode & 0o7777]).toEqual([
    uid,
    0o700,
  ]);
  const file = join(instance.api.state, "planted-name");
  writeFileSync(file, "planted-content ".repeat(500));
  // While an api lives they are left alone.
  const api = await showPresence(instance);
  await closeState(instance);
  expect(readFileSync(file, "utf8")).toStartWith("planted-content");
  api[Symbol.dispose]();
  await closeState(instance);
  await closeState(instance);
  expect(() => readFileSync(file)).toThrow("ENOENT");
  expect(disk.found(["planted-name", "planted-content"])).toEqual([]);
  const other = crypto.getRandomValues(new Uint8Array(32));
  expect(await openState(instance, other).catch(String)).toContain("a key that its keyring does not give");
  expect(() => readFileSync(file)).toThrow("ENOENT");
  await openState(instance, secret);
  await openState(instance, secret);
  expect(readFileSync(file, "utf8")).toStartWith("planted-content");
  await closeState(instance);
  disk.remount();
  await openState(instance, secret);
  expect(readFileSync(file, "utf8")).toStartWith("planted-content");
  await closeState(instance);
});

for (const at of [disk, bare]) {
  const encrypted = at === disk;
  test(`an earlier version's database moves, ${encrypted ? "encrypted" : "in the clear"}, whatever step a crash cuts short`, async () => {
    const steps: MoveStep[] = ["mark", "copy", "commit", "remove"];
    for (const crash of [...steps, null]) {
      const instance = instanceOn(at);
      const { uid, gid } = roleUser("cofferdam");
      if (crash !== null) {
        // It has its policy before anything moves.
        await openState(instance, secret);
        plantDatabase(instance, "row");
        const state = openOwned(instance.data, "api/state", constants.O_RDONLY, { uid, gid });
        const cut = moveDatabase(instance, state, encrypted, (step) => {
          if (step === crash) throw new Error(`cut at ${step}`);
        });
        expect(await cut.catch(String)).toContain(`cut at ${crash}`);
        closeSync(state);
      } else plantDatabase(instance, "row");
      await openState(instance, secret);
      expect([crash, rowsOf(instance)]).toEqual([crash, ["checkpointed-row", "logged-row"]]);
      expect(readFileSync(`${instance.api.database}.before-9`, "utf8")).toBe("an older copy");
      expect(readdirSync(instance.api.dir)).toEqual(["state"]);
      expect(statSync(instance.api.database)).toMatchObject({ uid, gid });
      await closeState(instance);
      expect(existsSync(instance.api.database)).toBe(!encrypted);
    }
  }, 60_000);
}

test("a database that an older version made in the middle of a move takes no other's place", async () => {
  const instance = instanceOn(disk);
  const { uid, gid } = roleUser("cofferdam");
  await openState(instance, secret);
  plantDatabase(instance, "row");
  const state = openOwned(instance.data, "api/state", constants.O_RDONLY, { uid, gid });
  const cut = moveDatabase(instance, state, true, (step) => {
    if (step === "commit") throw new Error("cut");
  });
  expect(await cut.catch(String)).toContain("cut");
  closeSync(state);
  const older = join(instance.api.dir, "cofferdam.db");
  writeFileSync(older, "of an older version that found none");
  expect(await openState(instance, secret).catch(String)).toContain("cofferdam.db.moving and ");
  rmSync(older);
  await openState(instance, secret);
  expect(rowsOf(instance)).toEqual(["checkpointed-row", "logged-row"]);
  rmSync(instance.api.database);
  writeFileSync(`${instance.api.database}-wal`, "nobody's");
  writeFileSync(older, "another");
  expect(await openState(instance, secret).catch(String)).toContain("state/cofferdam.db-wal and ");
  await closeState(instance);
});

test("a disk without room for the copy keeps the database where it was, for an older version too", async () => {
  const small = makeDisk({ size: "16M" });
  try {
    const instance = instanceOn(small);
    plantDatabase(instance, "row");
    const big = join(instance.api.dir, "cofferdam.db.before-10");
    writeFileSync(big, new Uint8Array(8 * 1024 * 1024));
    const before = readdirSync(instance.api.dir).toSorted();
    expect(await openState(instance, secret).catch(String)).toContain("Nothing was changed");
    expect(readdirSync(instance.api.dir).toSorted()).toEqual(before);
    expect(readdirSync(instance.api.state)).toEqual([]);
    rmSync(big);
    await openState(instance, secret);
    expect(rowsOf(instance)).toEqual(["checkpointed-row", "logged-row"]);
    await closeState(instance);
  } finally {
    small.remove();
  }
});

test("nothing moves under a living api, nor over a database that is there, nor through a link", async () => {
  const instance = instanceOn(disk);
  plantDatabase(instance, "row");
  const api = await showPresence(instance);
  expect(await openState(instance, secret).catch(String)).toContain("runs already");
  api[Symbol.dispose]();
  await openState(instance, secret);
  // A downgrade makes one anew.
  plantDatabase(instance, "of the downgrade");
  expect(await openState(instance, secret).catch(String)).toContain("There are two databases, ");
  expect(rowsOf(instance)).toEqual(["checkpointed-row", "logged-row"]);
  expect(existsSync(join(instance.api.dir, "cofferdam.db"))).toBe(true);
  await closeState(instance);

  const tricked = instanceOn(disk);
  symlinkSync("/etc/shadow", join(tricked.api.dir, "cofferdam.db"));
  expect(await openState(tricked, secret).catch(String)).toContain("ELOOP");
  expect(existsSync(tricked.api.database)).toBe(false);
  rmSync(tricked.api.state, { recursive: true });
  mkdirSync("/scratch/elsewhere", { recursive: true });
  symlinkSync("/scratch/elsewhere", tricked.api.state);
  expect(await openState(tricked, secret).catch(String)).toContain("ENOTDIR");
  expect(readdirSync("/scratch/elsewhere")).toEqual([]);
});
