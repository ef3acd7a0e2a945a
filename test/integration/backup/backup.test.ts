import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "bun:test";
import { generateX25519Identity, identityToRecipient } from "age-encryption";
import { eq } from "drizzle-orm";
import { openSealed, sealFor } from "../../../src/backup/access.ts";
import { createDirectoryTarget } from "../../../src/backup/directory.ts";
import { backupsIn } from "../../../src/backup/index.ts";
import { keysOf } from "../../../src/backup/layout.ts";
import { claimTarget, checkTarget } from "../../../src/backup/marker.ts";
import { pruneBackups } from "../../../src/backup/prune.ts";
import { createVerifier } from "../../../src/backup/verify.ts";
import type { BlobStore } from "../../../src/blobs/store.ts";
import { namespaces } from "../../../src/db/schema.ts";
import type { BackupId, NamespaceId } from "../../../src/ids.ts";
import { createSecrets } from "../../../src/secrets.ts";
import { quiet, startBackups } from "../../fixtures/backups.ts";
import { startS3Server } from "../../fixtures/s3-server.ts";
import { storeAt } from "../../fixtures/s3-store.ts";
import { failureOf } from "../../fixtures/failure.ts";

let appliance: Awaited<ReturnType<typeof startBackups>>;
beforeAll(async () => {
  appliance = await startBackups();
});
afterAll(async () => appliance.close());

let targets = 0;
const newTarget = (): BlobStore => createDirectoryTarget(join(appliance.dir, `target-${targets++}`));

async function verify(store: BlobStore, ...ids: BackupId[]) {
  const scratch = mkdtempSync(join(appliance.dir, "verify-"));
  const verifier = createVerifier({ store, secrets: appliance.secrets, scratch, progress: quiet });
  const found = [];
  for (const id of ids) found.push(await verifier.verify(id));
  return found;
}

async function objectsIn(store: BlobStore, prefix = ""): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list(prefix)) keys.push(key);
  return keys.toSorted();
}

const prune = (store: BlobStore, keep: number) =>
  pruneBackups({ store, keep, secrets: appliance.secrets, lock: { check: async () => {} } });

test("a second backup copies what is new and nothing else; both are whole", async () => {
  const target = newTarget();
  const alice = await appliance.namespace("one", "two");
  const first = await appliance.create(target);
  // Two files, and a manifest in two blobs.
  expect(first.blobs).toMatchObject({ count: 4, addedCount: 4 });
  appliance.files.get(alice)?.push("three");
  const second = await appliance.create(target);
  expect(second.blobs).toMatchObject({ count: 5, addedCount: 3 });
  expect((await appliance.create(target)).blobs).toMatchObject({ count: 5, addedCount: 0 });
  const verified = await verify(target, first.id, second.id);
  expect(verified.map(({ faults }) => faults)).toEqual([[], []]);
  expect(verified.map(({ blobs, events }) => ({ blobs, events }))).toEqual([
    { blobs: 4, events: 2 },
    { blobs: 5, events: 2 },
  ]);
});

test("verify names every object that has a flipped bit or is missing, and only what a backup needs", async () => {
  const target = newTarget();
  await appliance.namespace("some content", "x".repeat(10_000));
  const { id } = await appliance.create(target, { recipient: { recipient: await newRecipient() } });
  const needed = (await objectsIn(target)).filter((key) => key.includes("/"));
  // Of each kind: what is found must not depend on where the bit is.
  expect(needed.length).toBeGreaterThan(8);
  for (const key of needed) {
    const bytes = await target.get(key);
    if (bytes === null) throw new Error(`${key} is gone`);
    const flipped = Uint8Array.from(bytes);
    const at = Math.floor(Math.random() * flipped.length);
    flipped[at] = (flipped[at] ?? 0) ^ (1 << Math.floor(Math.random() * 8));
    for (const damage of [async () => target.put(key, flipped), async () => target.delete([key])]) {
      await damage();
      const [found] = await verify(target, id);
      expect({ key, ok: found?.ok }).toEqual({ key, ok: false });
      expect(JSON.stringify(found?.faults)).toContain(key.replace(/\/0+$/, ""));
    }
    await target.put(key, bytes);
  }
  expect(await verify(target, id)).toMatchObject([{ ok: true, faults: [] }]);
});

test("an object in another's place is found, though both are well themselves", async () => {
  const target = newTarget();
  const one = await appliance.create(target);
  const two = await appliance.create(target);
  const key = `${keysOf(two.id).database}/00000000`;
  const older = await target.get(`${keysOf(one.id).database}/00000000`);
  await target.put(key, older ?? new Uint8Array());
  expect(await verify(target, two.id)).toMatchObject([{ ok: false }]);
});

test("pruning keeps the newest, takes what no kept one needs, and what a killed one has left", async () => {
  const target = newTarget();
  const bob = await appliance.namespace("old content", "kept content");
  const first = await appliance.create(target);
  const old = await appliance.blobOf(bob, "old content");
  appliance.files.set(bob, ["kept content"]);
  const second = await appliance.create(target);
  const third = await appliance.create(target);
  const killed = "backup-20200101t000000000z-aaaaaa" as BackupId;
  await target.put(`${keysOf(killed).database}/00000000`, Buffer.from("half"));
  expect((await objectsIn(target, bob)).join()).toContain(old);

  expect(await prune(target, 3)).toMatchObject({ removed: [], blobs: 0 });
  expect(await backupsIn(target)).toEqual({ ids: [first.id, second.id, third.id], unfinished: [] });

  const pruned = await prune(target, 2);
  expect(pruned.removed).toEqual([first.id]);
  expect(pruned.blobs).toBeGreaterThan(0);
  const left = await objectsIn(target);
  expect(left.join()).not.toContain(old);
  expect(left.join()).not.toContain(first.id);
  expect(await verify(target, second.id, third.id)).toMatchObject([{ ok: true }, { ok: true }]);

  // One whose list nobody can read: nothing is known of what it needs, and so nothing goes.
  await target.delete([`${keysOf(second.id).blobs}/00000000`]);
  expect(await failureOf(prune(target, 2))).toContain("is missing");
  expect(await objectsIn(target, "ns-")).toEqual(left.filter((key) => key.startsWith("ns-")));
});

test("what is damaged in the appliance itself stops no backup, and is told by it and by verify", async () => {
  const target = newTarget();
  const carol = await appliance.namespace("whole", "to be damaged");
  const blob = await appliance.blobOf(carol, "to be damaged");
  const key = `${carol}/blobs/${blob.slice(0, 2)}/${blob}`;
  const spoilt = Buffer.alloc(100, 1);
  const index = await appliance.create(target, { captured: async () => appliance.store.put(key, spoilt) });
  expect(index.lacking).toEqual([{ namespace: carol, blob }]);
  expect(await verify(target, index.id)).toMatchObject([
    { ok: false, faults: [{ object: key, reason: "it is missing" }] },
  ]);
  // The next capture has stored it anew, and the next backup is whole.
  const next = await appliance.create(target);
  expect(next.lacking).toEqual([]);
  expect(await verify(target, next.id)).toMatchObject([{ ok: true }]);
});

test("a namespace that can't be captured keeps no other out, and is told by it and by verify", async () => {
  const target = newTarget();
  const frank = await appliance.namespace("as before");
  await appliance.create(target);
  appliance.files.set(frank, ["as before", "never captured"]);
  const grace = await appliance.namespace("grace's");
  appliance.moving.add(frank);
  const index = await appliance.create(target);
  appliance.moving.delete(frank);
  expect(index.missed).toEqual([{ namespace: frank, reason: "It never stands still." }]);
  const has = async (id: NamespaceId, content: string) =>
    (await objectsIn(target, id)).join().includes(await appliance.blobOf(id, content));
  expect(await has(frank, "as before")).toBe(true);
  expect(await has(frank, "never captured")).toBe(false);
  expect(await has(grace, "grace's")).toBe(true);
  expect(await verify(target, index.id)).toMatchObject([
    { ok: false, faults: [{ object: `the files of ${frank}` }] },
  ]);
  expect((await appliance.create(target)).missed).toEqual([]);
});

test("a namespace that is made while others are captured is captured as well", async () => {
  const target = newTarget();
  let late: NamespaceId | null = null;
  appliance.onCapture.call = async () => {
    late ??= await appliance.namespace("made late");
  };
  await appliance.namespace("one that is there");
  const index = await appliance.create(target);
  appliance.onCapture.call = async () => {};
  if (late === null) throw new Error("nothing was captured");
  expect((await objectsIn(target, late)).join()).toContain(await appliance.blobOf(late, "made late"));
  expect(await verify(target, index.id)).toMatchObject([{ ok: true }]);
});

test("a place that holds an appliance's own files is not taken for backups, and nothing there is removed", async () => {
  const bucket = newTarget();
  const id = await appliance.namespace();
  await bucket.put(`${id}/head`, Buffer.from("an appliance's"));
  await bucket.put(`${id}/blobs/aa/${"a".repeat(64)}`, Buffer.from("an appliance's"));
  expect(await failureOf(claimTarget(bucket, appliance.secrets))).toContain("a place of their own");
  expect(await bucket.read("marker")).toBe(null);
  // It may have been empty when it was claimed.
  const shared = newTarget();
  await claimTarget(shared, appliance.secrets);
  await shared.put(`${id}/head`, Buffer.from("an appliance's"));
  await shared.put(`${id}/blobs/aa/${"a".repeat(64)}`, Buffer.from("an appliance's"));
  expect(await failureOf(prune(shared, 1))).toContain("nothing was removed");
  expect(await objectsIn(shared, id)).toHaveLength(2);
});

test("a backup that was just made stays, though the clock was ahead when the others were", async () => {
  const target = newTarget();
  const ahead = await appliance.create(target, { now: Date.now() + 1_000_000_000 });
  const { id } = await appliance.create(target);
  const parts = { store: target, secrets: appliance.secrets, lock: { check: async () => {} } };
  expect(await pruneBackups({ ...parts, keep: 1, made: id })).toMatchObject({
    kept: [id],
    removed: [ahead.id],
  });
});

test("a namespace that is deleted meanwhile is told, and needs no blobs", async () => {
  const target = newTarget();
  const dave = await appliance.namespace("dave's");
  const remove = async () => {
    await appliance.db.delete(namespaces).where(eq(namespaces.id, dave));
    await appliance.store.delete(await objectsIn(appliance.store, dave));
  };
  const index = await appliance.create(target, { captured: remove });
  expect(index.gone).toEqual([dave]);
  expect(await objectsIn(target, dave)).toEqual([]);
  expect(await verify(target, index.id)).toMatchObject([{ ok: true }]);
});

test("only its own passphrase or identity opens the appliance's secret", async () => {
  const secret = crypto.getRandomValues(new Uint8Array(32));
  const byPhrase = await sealFor({ passphrase: "correct horse battery" }, secret, 10);
  expect(await openSealed({ passphrase: "correct horse battery" }, byPhrase)).toEqual(secret);
  expect(await failureOf(openSealed({ passphrase: "correct horse batterz" }, byPhrase))).toContain(
    "does not open",
  );
  expect(await failureOf(sealFor({ passphrase: "short" }, secret))).toContain("use 12 at least");

  const identity = await generateX25519Identity();
  const byKey = await sealFor({ recipient: await identityToRecipient(identity) }, secret);
  expect(await openSealed({ identities: `# mine\n${identity}\n` }, byKey)).toEqual(secret);
  const other = await generateX25519Identity();
  expect(await failureOf(openSealed({ identities: other }, byKey))).toContain("does not open");
  expect(await failureOf(openSealed({ identities: identity }, byPhrase))).toContain("--passphrase-file");
  expect(await failureOf(openSealed({ passphrase: "correct horse battery" }, byKey))).toContain(
    "--identity-file",
  );
  expect(await failureOf(openSealed({ identities: "nothing" }, byKey))).toContain("none of age's");
  expect(await failureOf(sealFor({ recipient: "age1nobody" }, secret))).toContain("no recipient");
});

test("what the age tool has sealed is opened", async () => {
  // By age 1.2.1, for the recipient of this identity, which is used nowhere else.
  const identities = "AGE-SECRET-KEY-1PNL6RPCSCX5P95WAYFZC5992YSLQWLG44L5003VLG5GTKGLYZF4QKPGUAY";
  const sealed = Buffer.from(
    "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSB6UVBuWjVGbmVXTkk3eVJQcVI4ZGtEWElCQUJCTnBSeWxuaEpyT0FhUlRNCkNQZVlQ" +
      "cGRaMzBIWHpNbEdiMzBVQWlLNm9KdEdpb2NpNVEwaitPTFI4UDQKLS0tIEFzRkdOVVg3UW44bWNhR1Rxa1ZsTzkwMzVtaFY4NFpnVTBpOGg3" +
      "L2xDd1EKqs6kCP4QslLcLt4cKwlp0NMOm2gjT5xVLDfo+unJP5fxxOOwcWn3tUTiUuNZQVRtR/r+5n1y2In6uYtBNUhZxw==",
    "base64",
  );
  expect(await openSealed({ identities }, sealed)).toEqual(new Uint8Array(32).fill(9));
});

test("a target is one appliance's", async () => {
  const target = newTarget();
  expect(await failureOf(checkTarget(target, null))).toContain("no backups");
  await claimTarget(target, appliance.secrets);
  await claimTarget(target, appliance.secrets);
  const other = createSecrets(new Uint8Array(32).fill(8));
  expect(await failureOf(claimTarget(target, other))).toContain("of another appliance");
  expect(await failureOf(checkTarget(target, other))).toContain("of another appliance");
  await checkTarget(target, null);
});

async function newRecipient(): Promise<string> {
  return identityToRecipient(await generateX25519Identity());
}

test("a bucket is a target like a directory", async () => {
  await using server = await startS3Server();
  const { store: target } = storeAt(server.endpoint, { prefix: "some/backups/" });
  const eve = await appliance.namespace("eve's", "y".repeat(3_000_000));
  const first = await appliance.create(target);
  appliance.files.set(eve, ["eve's", "more"]);
  const second = await appliance.create(target);
  // One file, and the list of all of them.
  expect(second.blobs?.addedCount).toBe(2);
  expect(await prune(target, 1)).toMatchObject({ kept: [second.id], removed: [first.id] });
  expect(await verify(target, second.id)).toMatchObject([{ ok: true, faults: [] }]);
  const [piece] = await objectsIn(target, keysOf(second.id).database);
  await target.delete([piece ?? ""]);
  expect(await verify(target, second.id)).toMatchObject([{ ok: false }]);
});
