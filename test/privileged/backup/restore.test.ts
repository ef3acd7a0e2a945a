import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { asc, isNull } from "drizzle-orm";
import { auditKeys } from "../../../src/audit/keys.ts";
import { verifyAudit } from "../../../src/audit/verify.ts";
import { createDirectoryTarget } from "../../../src/backup/directory.ts";
import { isTrial, placeRestored, restoredText } from "../../../src/instance/restored.ts";
import { refuseUsed } from "../../../src/backup/unused.ts";
import { openCopy, openDatabase } from "../../../src/db/open.ts";
import { events, keys, namespaces, restores, workspaces } from "../../../src/db/schema.ts";
import { keyId, namespaceId, workspaceId, type BackupId } from "../../../src/ids.ts";
import type { Instance } from "../../../src/instance/instance.ts";
import { roleUser } from "../../../src/kernel/users.ts";
import { openKeyring } from "../../../src/instance/keyring.ts";
import { createSecrets } from "../../../src/secrets.ts";
import { createInstance } from "../../../src/instance/setup.ts";
import { closeState, openState } from "../../../src/instance/state.ts";
import { startBackups } from "../../fixtures/backups.ts";
import { makeDisk } from "../../fixtures/encrypted-disk.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { MASTER_KEY } from "../../fixtures/ledger.ts";
import { smallDisk } from "../../fixtures/small-disk.ts";
import { ensureUsers } from "../../fixtures/users.ts";

ensureUsers();
const disk = makeDisk();
const CONTENTS = Array.from({ length: 60 }, (_, n) => `${n}: `.repeat(400));
let appliance: Awaited<ReturnType<typeof startBackups>>;
let target: string;
let backup: BackupId;
beforeAll(async () => {
  appliance = await startBackups();
  await appliance.namespace(...CONTENTS);
  await appliance.namespace("bob's");
  target = join(appliance.dir, "target");
  ({ id: backup } = await appliance.create(createDirectoryTarget(target)));
});
afterAll(async () => {
  await appliance.close();
  disk.remove();
});

const newInstance = () => createInstance(join(disk.path, `data-${crypto.randomUUID().slice(0, 8)}`));

const restoring = ({ data }: Instance) =>
  Bun.spawn(
    [process.execPath, join(import.meta.dir, "../../fixtures/restore-process.ts"), data, target, backup],
    {
      stdout: "pipe",
      stderr: "inherit",
    },
  );

/** Throws unless it is all that the backup holds, as api needs it. */
async function checkRestored(instance: Instance): Promise<void> {
  const { secret } = openKeyring(instance.keyringFile, readFileSync(instance.masterKeyFile));
  expect(Buffer.from(secret)).toEqual(Buffer.from(MASTER_KEY));
  await openState(instance, secret);
  const db = await openCopy(instance.api.database);
  const secrets = createSecrets(secret);
  expect(await verifyAudit({ db, ...auditKeys(secrets) })).toMatchObject({ ok: true });
  const told = await db.select().from(events).orderBy(asc(events.createdAt));
  expect(told.at(-1)).toMatchObject({ chain: "appliance", type: "backup.restored" });
  expect(await db.$count(namespaces)).toBe(2);
  expect(await db.$count(restores)).toBe(2);
  expect(await db.$count(namespaces, isNull(namespaces.usageAt))).toBe(2);
  db.close();
  await closeState(instance);
  const { uid, gid } = roleUser("cofferdam");
  const blobs = readdirSync(instance.api.blobs, { recursive: true, withFileTypes: true });
  expect(blobs.filter((entry) => entry.isFile()).length).toBeGreaterThan(60);
  for (const path of [
    instance.api.dir,
    instance.api.state,
    instance.api.blobs,
    blobs.at(-1)?.parentPath ?? "",
  ]) {
    const status = statSync(path);
    expect({ path, uid: status.uid, gid: status.gid }).toEqual({ path, uid, gid });
  }
  expect(readFileSync(instance.gateway.keyFile, "utf8")).toBe("a gateway's key");
  expect(readFileSync(instance.configFile, "utf8")).toContain("timeout_s = 7");
  expect(readFileSync(join(instance.data, "restored"), "utf8")).toBe(`${backup}\n`);
  expect(existsSync(join(instance.data, "restore"))).toBe(false);
  expect(isTrial(instance.data)).toBe(false);
}

test("an empty appliance becomes the one of the backup, under its own master key", async () => {
  const instance = newInstance();
  const restore = restoring(instance);
  expect(await restore.stdout.text()).toBe("restored\n");
  await checkRestored(instance);
  // Its own instance, and its own key.
  expect(createInstance(instance.data).inst).toBe(instance.inst);
});

test("killed anywhere, it leaves the old or the new, and another call or the next start ends it", async () => {
  const instance = newInstance();
  const before = readFileSync(instance.keyringFile, "utf8");
  let kills = 0;
  // Later each time, by a share of it, so that every part is hit whatever the machine's speed.
  for (let waitMs = 60; ; waitMs *= 1.25) {
    const restore = restoring(instance);
    const ended = await Promise.race([restore.exited, Bun.sleep(waitMs).then(() => null)]);
    if (ended === 0) break;
    restore.kill("SIGKILL");
    await restore.exited;
    kills += 1;
    const isReady = existsSync(join(instance.data, "restore/ready"));
    const isOld = readFileSync(instance.keyringFile, "utf8") === before && existsSync(instance.api.dir);
    expect(isReady || isOld || existsSync(join(instance.data, "restored"))).toBe(true);
    // A start in between is harmless.
    createInstance(instance.data);
  }
  expect(kills).toBeGreaterThan(3);
  await checkRestored(instance);
}, 300_000);

interface Moved {
  readonly api: boolean;
  readonly before: boolean;
  readonly left?: boolean;
  readonly keyring?: boolean;
}

test("once all is together, the next start moves it into place from any step on", async () => {
  const instance = newInstance();
  await restoring(instance).exited;
  const dir = join(instance.data, "restore");
  /** What is still to be moved, as a crash leaves it; the empty appliance stands in its place, or not any more. */
  const undo = ({ api, before, left = false, keyring = true }: Moved) => {
    mkdirSync(dir, { mode: 0o700 });
    // By a restore before, which was killed while it removed that.
    if (left) mkdirSync(join(dir, "api.before/state"), { recursive: true });
    writeFileSync(join(dir, "ready"), `${backup}\n`);
    renameSync(instance.gateway.keyFile, join(dir, "gateway.key"));
    if (!keyring) return;
    // The empty appliance's own.
    if (before) writeFileSync(instance.gateway.keyFile, "of another secret");
    renameSync(instance.keyringFile, join(dir, "keyring"));
    if (!api) return;
    renameSync(instance.api.dir, join(dir, "api"));
    mkdirSync(before ? join(dir, "api.before") : instance.api.dir);
  };
  for (const step of [
    { api: true, before: false },
    { api: true, before: false, left: true },
    { api: true, before: true },
    { api: false, before: true },
    { api: false, before: false, keyring: false },
  ]) {
    undo(step);
    createInstance(instance.data);
    await checkRestored(instance);
  }
  expect(placeRestored(instance.data)).toBe(false);
});

test("a disk without room is told of before anything is fetched, and a target that can't be used by its name", async () => {
  const small = smallDisk(8);
  try {
    const from = createDirectoryTarget(join(small.path, "target"));
    expect(await failureOf(from.put("full", new Uint8Array(16 * 1024 * 1024)))).toContain(
      `no room left in ${small.path}`,
    );
    const { data } = createInstance(join(small.path, "data"));
    writeFileSync(join(small.path, "filler"), new Uint8Array(small.freeBytes() - 200_000));
    const args = [join(import.meta.dir, "../../fixtures/restore-process.ts"), data, target, backup];
    const child = Bun.spawn([process.execPath, ...args], { stdout: "ignore", stderr: "pipe" });
    expect(await child.stderr.text()).toMatch(/takes \d+ MiB of free disk/);
    expect(await child.exited).not.toBe(0);
    expect(existsSync(join(data, "restore/api"))).toBe(false);
  } finally {
    small.remove();
  }
  const file = createDirectoryTarget(join(target, "marker"));
  expect(await failureOf(file.read("marker"))).toContain("can't be used for backups (ENOTDIR)");
});

test("a trial says that it is one, also when its restore was interrupted at the end", async () => {
  const { data } = newInstance();
  expect(isTrial(data)).toBe(false);
  mkdirSync(join(data, "restore"));
  writeFileSync(join(data, "restore/ready"), restoredText(backup, true));
  expect(placeRestored(data)).toBe(true);
  expect(isTrial(data)).toBe(true);
});

test("an appliance that holds anything is refused, and what an install makes is not", async () => {
  const instance = newInstance();
  const { secret } = openKeyring(instance.keyringFile, readFileSync(instance.masterKeyFile));
  await openState(instance, secret);
  await refuseUsed(instance);
  const db = await openDatabase(instance.api.database);
  const workspace = workspaceId.make();
  const key = (scope: "admin" | "workspace") => ({
    id: keyId.make(),
    workspaceId: workspace,
    name: scope,
    scope,
    prefix: "",
    hash: scope,
    createdAt: 1,
  });
  await db.insert(workspaces).values({ id: workspace, name: "main", createdAt: 1 });
  await db.insert(keys).values([key("admin"), key("workspace")]);
  const demo = { id: namespaceId.make(), workspaceId: workspace, name: "demo", createdAt: 1, lastUsedAt: 1 };
  await db.insert(namespaces).values(demo);
  await refuseUsed(instance);
  // Where they are in a bucket, nothing of them need be on the disk.
  await db.update(namespaces).set({ usageFiles: 1 });
  expect(await failureOf(refuseUsed(instance))).toContain("not empty (files of 1 namespaces)");
  await db.update(namespaces).set({ usageFiles: 0 });
  writeFileSync(join(instance.data, "restored"), restoredText(backup, false));
  expect(await failureOf(refuseUsed(instance))).toContain("a backup was restored into it");
  rmSync(join(instance.data, "restored"));
  await db.insert(namespaces).values({ ...demo, id: namespaceId.make(), name: "alice" });
  expect(await failureOf(refuseUsed(instance))).toContain("not empty (2 namespaces)");
  db.close();
});
