import { expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { createSealedBlobs } from "../../../src/blobs/sealed.ts";
import { createNamespaceKeys } from "../../../src/keys/namespace-keys.ts";
import { namespaces } from "../../../src/db/schema.ts";
import { startScrub } from "../../../src/snapshots/scrub.ts";
import { allEvents } from "../../fixtures/chain.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { listingOf } from "../../fixtures/listing.ts";
import { openDescriptors } from "../../fixtures/scratch.ts";
import { snapshotFixture } from "../../fixtures/snapshots.ts";
import { until } from "../../fixtures/until.ts";

const MIB = 1024 * 1024;
const DAY_MS = 24 * 60 * 60_000;

/** All that lies in the store of a namespace. */
const stored = (dir: string) =>
  existsSync(dir)
    ? readdirSync(dir, { recursive: true, withFileTypes: true }).filter((one) => one.isFile())
    : [];

function plantTree(live: string): void {
  mkdirSync(join(live, "a/b"), { recursive: true });
  mkdirSync(join(live, "empty"), { mode: 0o700 });
  writeFileSync(join(live, "a/b/one"), "one");
  writeFileSync(join(live, "a/large"), crypto.getRandomValues(Buffer.alloc(5 * MIB)));
  writeFileSync(Buffer.concat([Buffer.from(`${live}/`), Buffer.from([0xff, 0x20])]), "not UTF-8");
  symlinkSync("/etc/passwd", join(live, "out"));
  linkSync(join(live, "a/b/one"), join(live, "two"));
  utimesSync(join(live, "a/b/one"), 1_000_000_000.5, 1_000_000_000.25);
  Bun.spawnSync(["chown", "-hR", "10000:10000", live]);
}

test("what is restored is what there was, and what came since is gone", async () => {
  await using fixture = await snapshotFixture();
  const { live, tmp, create, restore } = await fixture.namespace();
  plantTree(live);
  const before = listingOf(live);
  const snapshot = await create("before");
  expect(snapshot).toMatchObject({ label: "before", sizeBytes: 5 * MIB + 12, fileCount: 4, skipped: 0 });

  appendFileSync(join(live, "a/large"), "more");
  rmSync(join(live, "a/b"), { recursive: true });
  writeFileSync(join(live, "new"), "new");
  Bun.spawnSync(["chown", "10000:10000", join(live, "new")]);
  const after = listingOf(live);
  const second = await create();
  const open = openDescriptors(fixture.dir);
  expect(await restore(snapshot.id)).toBe(4);
  expect(listingOf(live)).toEqual(before);
  expect(await restore(second.id)).toBe(4);
  expect(listingOf(live)).toEqual(after);
  expect(openDescriptors(fixture.dir)).toBe(open);
  expect(readdirSync(tmp)).toEqual([]);

  const events = (await allEvents(fixture.db)).map(({ type, data }) => ({ type, data }));
  expect(events.map(({ type }) => type)).toEqual([
    "snapshot.created",
    "snapshot.created",
    "snapshot.restored",
    "snapshot.restored",
  ]);
  expect(events[0]?.data).toMatchObject({ snapshot_id: snapshot.id, label: "before", file_count: 4 });
  expect(events[2]?.data).toEqual({ snapshot_id: snapshot.id, label: "before", files_restored: 4 });
});

test("they are listed newest first, and each is only its namespace's", async () => {
  await using fixture = await snapshotFixture();
  const mine = await fixture.namespace();
  const other = await fixture.namespace();
  const made = [];
  for (const label of ["one", "two", "three"]) made.unshift((await mine.create(label)).id);
  expect((await mine.list()).map(({ id }) => id)).toEqual(made);
  expect(await other.list()).toEqual([]);
  for (const id of [made[0]!, "snap-aaaaaaaaaaaaaaaa", "../x", ""]) {
    const wanted = `The namespace has no snapshot ${JSON.stringify(id)}.`;
    expect(await failureOf(other.restore(id))).toBe(wanted);
    expect(await failureOf(other.remove(id))).toBe(wanted);
    expect(await failureOf(fixture.snapshots.download(other.id, id))).toBe(wanted);
  }
  expect((await mine.list()).length).toBe(3);
});

test("a deleted snapshot's blobs go, but for those that others need", async () => {
  await using fixture = await snapshotFixture();
  const { live, blobs, create, remove, restore } = await fixture.namespace();
  const shared = crypto.getRandomValues(Buffer.alloc(5 * MIB));
  writeFileSync(join(live, "shared"), shared);
  writeFileSync(join(live, "own"), crypto.getRandomValues(Buffer.alloc(2 * MIB)));
  const first = await create();
  const alone = stored(blobs).length;
  unlinkSync(join(live, "own"));
  const second = await create();
  await remove(first.id);
  await fixture.snapshots.tidy.idle();
  expect(stored(blobs).length).toBeLessThan(alone);
  rmSync(join(live, "shared"));
  await restore(second.id);
  expect(readFileSync(join(live, "shared")).equals(shared)).toBe(true);
  await remove(second.id);
  await fixture.snapshots.tidy.idle();
  expect(stored(blobs)).toEqual([]);
  expect(fixture.warned).toEqual([]);
});

test("a snapshot that fails leaves no row, no event and, in the end, no blobs", async () => {
  let puts = 0;
  await using fixture = await snapshotFixture({
    wrap: (store) => ({
      ...store,
      put: async (key, bytes) => {
        if (++puts > 3) throw new Error("the store is away");
        await store.put(key, bytes);
      },
    }),
  });
  const { live, blobs, create, list } = await fixture.namespace();
  writeFileSync(join(live, "large"), crypto.getRandomValues(Buffer.alloc(30 * MIB)));
  expect(await failureOf(create())).toBe("the store is away");
  expect(await list()).toEqual([]);
  expect(await allEvents(fixture.db)).toEqual([]);
  // A put may be on its way still.
  await until(async () => {
    await fixture.snapshots.tidy.all();
    return stored(blobs).length === 0;
  });
});

test("what a crash has left in the store goes with the next collection, and what is no blob stays", async () => {
  await using fixture = await snapshotFixture();
  const { id, live, blobs, create } = await fixture.namespace();
  writeFileSync(join(live, "kept"), "kept");
  await create();
  const kept = stored(blobs).length;
  for (const key of ["aa".repeat(32), "ab".repeat(32)])
    await fixture.store.put(`${id}/blobs/${key.slice(0, 2)}/${key}`, Buffer.from("litter"));
  await fixture.store.put(`${id}/head`, Buffer.from("not a blob"));
  await fixture.store.put(`${id}/blobs/readme`, Buffer.from("not a blob"));
  expect(await fixture.snapshots.tidy.all()).toEqual({ namespaces: 1, failed: 0, blobs: 2, bytes: 12 });
  expect(stored(blobs).length).toBe(kept + 1);
  expect(await fixture.store.get(`${id}/head`)).not.toBeNull();
});

test("with a list of files that can't be read nothing is collected", async () => {
  await using fixture = await snapshotFixture();
  const { live, blobs, create, remove } = await fixture.namespace();
  writeFileSync(join(live, "one"), "one");
  const first = await create();
  writeFileSync(join(live, "two"), "two");
  const second = await create();
  const [, chunk = ""] = second.manifest.blobs;
  unlinkSync(join(blobs, chunk.slice(0, 2), chunk));
  await remove(first.id);
  const before = stored(blobs).length;
  await fixture.snapshots.tidy.idle();
  expect(stored(blobs).length).toBe(before);
  expect(fixture.warned.join()).toContain("could not be deleted");
});

test("a damaged blob refuses the restore, names what it hurts, and nothing was changed", async () => {
  await using fixture = await snapshotFixture();
  const { id, live, tmp, blobs, create, restore } = await fixture.namespace();
  writeFileSync(join(live, "hurt"), crypto.getRandomValues(Buffer.alloc(5 * MIB)));
  Bun.spawnSync(["cp", join(live, "hurt"), join(live, "copy of it")]);
  writeFileSync(join(live, "well"), crypto.getRandomValues(Buffer.alloc(5 * MIB)));
  const snapshot = await create("damaged");
  const { db, secrets, store } = fixture;
  const key = await createNamespaceKeys({ db, secrets }).of(id);
  const blob = createSealedBlobs({ store, namespace: id, key }).idOf(
    readFileSync(join(live, "hurt")).subarray(0, 4 * MIB),
  );
  const file = join(blobs, blob.slice(0, 2), blob);
  const bytes = readFileSync(file);
  // One bit.
  bytes[1_000_000]! ^= 1;
  writeFileSync(file, bytes);
  writeFileSync(join(live, "new"), "new");
  const before = listingOf(live);

  const refusal = await failureOf(restore(snapshot.id));
  expect(refusal).toBe(
    `Nothing was changed: the snapshot is damaged at workspace/copy of it and 1 more file (blob ${blob}: it is not what was stored). Restore another one.`,
  );
  expect(listingOf(live)).toEqual(before);
  expect(readdirSync(tmp)).toEqual([]);
  expect((await allEvents(db)).map(({ type }) => type)).toEqual(["snapshot.created"]);

  // And a scrub finds it without being asked for that snapshot.
  const well = await fixture.namespace();
  await well.create();
  const found = await Array.fromAsync(fixture.snapshots.verify({}));
  expect(found.length).toBe(2);
  const damage = found.flatMap((one) => one.damage.map((each) => ({ ...each, label: one.snapshot.label })));
  expect(damage).toEqual([
    {
      blob,
      reason: "it is not what was stored",
      paths: ["workspace/copy of it", "workspace/hurt"],
      more: 0,
      list: false,
      label: "damaged",
    },
  ]);
  // What is missing is found the same way, also where it is the list of files.
  unlinkSync(file);
  const [list = ""] = snapshot.manifest.blobs.slice(1);
  unlinkSync(join(blobs, list.slice(0, 2), list));
  const again = await Array.fromAsync(fixture.snapshots.verify({ snapshot: snapshot.id }));
  expect(again[0]?.damage).toEqual([
    { blob: snapshot.manifest.blobs[1]!, reason: "it is missing", paths: [], more: 0, list: true },
  ]);
  expect(await failureOf(restore(snapshot.id))).toContain(
    "the snapshot is damaged at its list of files (blob ",
  );
});

test("what the disk loses is found while nobody asks, and told by an event", async () => {
  await using fixture = await snapshotFixture();
  const { live, blobs, create } = await fixture.namespace();
  writeFileSync(join(live, "large"), crypto.getRandomValues(Buffer.alloc(5 * MIB)));
  const snapshot = await create("hurt");
  await (await fixture.namespace()).create("well");
  const [largest] = stored(blobs)
    .map((one) => join(one.parentPath, one.name))
    .toSorted((a, b) => statSync(b).size - statSync(a).size);
  if (largest === undefined) throw new Error("nothing is stored");
  const bytes = readFileSync(largest);
  bytes[999_999]! ^= 0x80;
  writeFileSync(largest, bytes);
  const { snapshots, ledger } = fixture;
  const logged: string[] = [];
  const log = { error: (message: string) => void logged.push(message) };
  const scrub = startScrub({ snapshots, ledger, log, firstAfterMs: 0 });
  const found = await until(async () => {
    const events = await allEvents(fixture.db);
    return events.filter(({ type }) => type === "snapshot.damaged")[0];
  });
  await scrub.stop();
  expect(found).toMatchObject({
    data: {
      snapshot_id: snapshot.id,
      label: "hurt",
      blob: largest.split("/").at(-1),
      paths: ["workspace/large"],
      more: 0,
      list: false,
    },
  });
  expect(logged).toEqual(["a snapshot is damaged"]);
});

test("those that are older than the limit go, each with its event", async () => {
  await using fixture = await snapshotFixture({ retentionDays: 30 });
  const { live, blobs, create, list } = await fixture.namespace();
  writeFileSync(join(live, "f"), "f");
  const old = await create("old");
  fixture.clock.now = () => old.createdAt + 29 * DAY_MS;
  const young = await create("young");
  expect(await fixture.snapshots.expire()).toBe(0);
  fixture.clock.now = () => old.createdAt + 30 * DAY_MS + 1;
  expect(await fixture.snapshots.expire()).toBe(1);
  expect((await list()).map(({ id }) => id)).toEqual([young.id]);
  const deleted = (await allEvents(fixture.db)).filter(({ type }) => type === "snapshot.deleted");
  expect(deleted.map(({ data }) => data)).toEqual([
    { snapshot_id: old.id, label: "old", reason: "retention" },
  ]);
  fixture.clock.now = () => old.createdAt + 90 * DAY_MS;
  expect(await fixture.snapshots.expire()).toBe(1);
  await fixture.snapshots.tidy.idle();
  expect(stored(blobs)).toEqual([]);
});

test("more than fit in one transaction go too", async () => {
  await using fixture = await snapshotFixture();
  const { create, list } = await fixture.namespace();
  for (let n = 0; n < 130; n++) await create();
  fixture.clock.now = () => Date.now() + 31 * DAY_MS;
  expect(await fixture.snapshots.expire()).toBe(130);
  expect(await list()).toEqual([]);
});

test("the sandbox is stopped before the swap, while nobody can begin another", async () => {
  const order: string[] = [];
  let live = "";
  await using fixture = await snapshotFixture({
    stopSandbox: async () => {
      order.push(`stop: ${readFileSync(join(live, "f"), "utf8")}`);
      await Bun.sleep(30);
      order.push("stopped");
    },
  });
  const mine = await fixture.namespace();
  live = mine.live;
  writeFileSync(join(live, "f"), "then");
  const snapshot = await mine.create();
  writeFileSync(join(live, "f"), "now");
  const restoring = mine.restore(snapshot.id);
  while (order.length === 0) await Bun.sleep(1);
  await Promise.all([
    restoring,
    fixture.volumes.leases.hold(mine.id, "write", async () => {
      order.push(`write: ${readFileSync(join(live, "f"), "utf8")}`);
    }),
  ]);
  expect(order).toEqual(["stop: now", "stopped", "write: then"]);
});

test("a sandbox that can't be stopped leaves all as it was", async () => {
  await using fixture = await snapshotFixture({
    stopSandbox: () => Promise.reject(new Error("sandboxd is away")),
  });
  const { live, tmp, create, restore } = await fixture.namespace();
  writeFileSync(join(live, "f"), "then");
  const snapshot = await create();
  writeFileSync(join(live, "f"), "now");
  expect(await failureOf(restore(snapshot.id))).toBe("sandboxd is away");
  expect(readFileSync(join(live, "f"), "utf8")).toBe("now");
  expect(readdirSync(tmp)).toEqual([]);
  expect((await allEvents(fixture.db)).map(({ type }) => type)).toEqual(["snapshot.created"]);
});

test("a restore counts as what the files are then, and may not pass a quota", async () => {
  await using fixture = await snapshotFixture({ quota: { namespace_mb: 3 } });
  const { id, live, create, restore } = await fixture.namespace();
  writeFileSync(join(live, "f"), Buffer.alloc(4 * MIB));
  const large = await create();
  writeFileSync(join(live, "f"), Buffer.alloc(MIB));
  fixture.volumes.table.changed(id);
  const small = await create();
  expect(await restore(small.id)).toBe(1);
  expect(await failureOf(restore(large.id))).toContain("more than the 3 MiB");
  expect(readFileSync(join(live, "f")).length).toBe(MIB);
});

test("a deleted namespace's blobs go, whatever they are of", async () => {
  await using fixture = await snapshotFixture();
  const mine = await fixture.namespace();
  const other = await fixture.namespace();
  for (const { live, create } of [mine, other]) {
    writeFileSync(join(live, "f"), "f");
    await create();
  }
  await fixture.db.update(namespaces).set({ deletingAt: 1, wrappedKey: null });
  await fixture.snapshots.tidy.removeNamespace(mine.id);
  expect(stored(join(fixture.dir, "blobs", mine.id))).toEqual([]);
  expect(stored(other.blobs).length).toBeGreaterThan(1);
});

test("a newest snapshot whose lists are damaged stops none that come after", async () => {
  for (const which of [0, 1]) {
    await using fixture = await snapshotFixture();
    const { live, blobs, create, remove, restore } = await fixture.namespace();
    plantTree(live);
    const before = listingOf(live);
    const damaged = await create();
    const blob = damaged.manifest.blobs[which] ?? "";
    unlinkSync(join(blobs, blob.slice(0, 2), blob));
    const next = await create();
    await remove(damaged.id);
    await fixture.snapshots.tidy.idle();
    rmSync(join(live, "a"), { recursive: true });
    await restore(next.id);
    expect(listingOf(live)).toEqual(before);
  }
});

test("holes need no room on the disk for a restore", async () => {
  await using fixture = await snapshotFixture({ quota: { disk_floor_mb: 1 } });
  const { live, create, restore } = await fixture.namespace();
  const TIB = 2 ** 40;
  writeFileSync(join(live, "sparse"), "data");
  truncateSync(join(live, "sparse"), 2 * TIB);
  Bun.spawnSync(["chown", "-hR", "10000:10000", live]);
  const snapshot = await create();
  rmSync(join(live, "sparse"));
  expect(await restore(snapshot.id)).toBe(1);
  expect(statSync(join(live, "sparse")).size).toBe(2 * TIB);
});

test("the snapshot after one that is known to be damaged is whole, and mends what the files still have", async () => {
  for (const how of ["verify", "restore"]) {
    await using fixture = await snapshotFixture();
    const { id, live, blobs, create, restore } = await fixture.namespace();
    plantTree(live);
    const before = listingOf(live);
    const first = await create();
    // Nothing has changed for long enough to be trusted.
    await Bun.sleep(2_100);
    await create();
    const sizeOf = (file: { parentPath: string; name: string }) =>
      statSync(join(file.parentPath, file.name)).size;
    const [large] = stored(blobs).toSorted((a, b) => sizeOf(b) - sizeOf(a));
    if (large === undefined) throw new Error("nothing is stored");
    truncateSync(join(large.parentPath, large.name), 1000);
    const unaware = await create();
    expect(await failureOf(restore(unaware.id))).toContain("the snapshot is damaged at workspace/a/large");
    if (how === "verify") {
      await create();
      truncateSync(join(large.parentPath, large.name), 1000);
      const found = await Array.fromAsync(fixture.snapshots.verify({ namespaceId: id }));
      expect(found.every(({ damage }) => damage.length === 1)).toBe(true);
    }
    const whole = await create();
    rmSync(join(live, "a"), { recursive: true });
    for (const snapshot of [whole, unaware, first]) {
      await restore(snapshot.id);
      expect(listingOf(live)).toEqual(before);
    }
  }
}, 120_000);
