import { expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { baseOf } from "../../../../src/runs/worktree/base.ts";
import { runId } from "../../../../src/ids.ts";
import { treeOfManifest, treeOnDisk } from "../../../fixtures/tree.ts";
import { worktreeFixture } from "../../../fixtures/worktrees.ts";

/** A little of everything that a namespace can have. */
function plant(live: string): void {
  mkdirSync(join(live, "a/b/c"), { recursive: true });
  writeFileSync(join(live, "a/one"), "one");
  writeFileSync(join(live, "a/empty"), "");
  writeFileSync(join(live, "a/b/script"), "#!/bin/sh\n", { mode: 0o755 });
  chmodSync(join(live, "a/b/script"), 0o755);
  writeFileSync(join(live, "large"), Buffer.alloc(3 * 1024 * 1024, 7));
  linkSync(join(live, "a/one"), join(live, "z-one"));
  symlinkSync("a/one", join(live, "link"));
  symlinkSync("/etc/passwd", join(live, "away"));
  writeFileSync(Buffer.concat([Buffer.from(`${live}/`), Buffer.from([0xff, 0xfe])]), "not UTF-8");
  let deep = live;
  for (let level = 0; level < 100; level++) mkdirSync((deep = join(deep, "d")));
  writeFileSync(join(deep, "bottom"), "bottom");
}

test("a fork has what the namespace has, and later changes of either are its own", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  plant(namespace.live);
  const fork = await fixture.fork(namespace);
  expect(treeOnDisk(fork.work)).toEqual(treeOnDisk(namespace.live));
  for (const name of ["a", "a/one", "link"]) expect(lstatSync(join(fork.work, name)).uid).toBe(10_000);
  expect(statSync(fork.work).uid).toBe(10_000);
  expect(fork.made).toMatchObject({ files: 7 });
  expect((await fixture.row(fork.id)).worktree).toBe("ready");
  writeFileSync(join(fork.work, "a/one"), "of the run");
  expect(readFileSync(join(namespace.live, "a/one"), "utf8")).toBe("one");
  writeFileSync(join(namespace.live, "large"), "of the namespace");
  expect(statSync(join(fork.work, "large")).size).toBe(3 * 1024 * 1024);
});

test("contents come from the namespace's own files, and those that have just changed from the store", async () => {
  const read = { blobs: 0 };
  await using fixture = await worktreeFixture({
    wrap: (store) => ({
      ...store,
      get: async (key: string) => {
        read.blobs += 1;
        return store.get(key);
      },
    }),
  });
  const namespace = await fixture.namespace();
  for (const name of ["one", "two"]) writeFileSync(join(namespace.live, name), Buffer.alloc(2 ** 21, name));
  await Bun.sleep(100);
  await fixture.fork(namespace);
  // The head and the list of files.
  const settled = read.blobs;
  expect(settled).toBeLessThan(8);
  read.blobs = 0;
  writeFileSync(join(namespace.live, "one"), Buffer.alloc(2 ** 21, "changed"));
  const fork = await fixture.fork(namespace);
  expect(read.blobs).toBeGreaterThan(settled);
  expect(treeOnDisk(fork.work)).toEqual(treeOnDisk(namespace.live));
});

test("a fork of a namespace that was never written in, and an empty worktree, have nothing", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  expect(readdirSync((await fixture.fork(namespace)).work)).toEqual([]);
  writeFileSync(join(namespace.live, "file"), "x");
  const empty = await fixture.fork(namespace, { from: "empty" });
  expect(readdirSync(empty.work)).toEqual([]);
  expect(empty.made.base).toEqual({ from: "empty", manifest: null });
});

test("a worktree from a snapshot has what that has, also when the snapshot is deleted before it is used", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  plant(namespace.live);
  const before = treeOnDisk(namespace.live);
  const snapshot = await namespace.create();
  writeFileSync(join(namespace.live, "a/one"), "changed since");
  const fork = await fixture.fork(namespace, { from: "snapshot", snapshot_id: snapshot.id });
  expect(treeOnDisk(fork.work)).toEqual(before);
});

test("another namespace's snapshot looks like none", async () => {
  await using fixture = await worktreeFixture();
  const [mine, other] = [await fixture.namespace(), await fixture.namespace()];
  const snapshot = await other.create();
  const forking = fixture.fork(mine, { from: "snapshot", snapshot_id: snapshot.id });
  expect(await forking.catch((error: unknown) => error)).toMatchObject({ code: "not_found" });
});

test("a worktree that a sandbox may have mounted is filled in place, and once more after a try that failed", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  plant(namespace.live);
  const id = await fixture.addRun(namespace.id);
  fixture.worktrees.prepare(id);
  const work = join(fixture.dir, "runs", id, "work");
  const { ino } = statSync(work);
  writeFileSync(join(work, "left"), "of a try before");
  mkdirSync(join(work, "directory"));
  const make = async (signal: AbortSignal) =>
    fixture.worktrees.make({ run: { id, namespaceId: namespace.id }, source: { from: "namespace" }, signal });
  const stopped = await make(AbortSignal.abort(new Error("stopped"))).catch((error: unknown) => error);
  expect(String(stopped)).toContain("stopped");
  expect(readdirSync(work)).toEqual([]);
  await make(new AbortController().signal);
  expect(statSync(work).ino).toBe(ino);
  expect(treeOnDisk(work)).toEqual(treeOnDisk(namespace.live));
});

test("what a base names is kept from collection while its run has a worktree, and no longer", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  writeFileSync(join(namespace.live, "file"), "x".repeat(5000));
  const fork = await fixture.fork(namespace);
  writeFileSync(join(namespace.live, "file"), "changed");
  const { tidy } = fixture.snapshots;
  expect(await tidy.all()).toMatchObject({ blobs: 0, failed: 0 });
  expect(await namespace.list()).toEqual([]);
  await fixture.worktrees.discard(fork.id, fixture.call(namespace));
  await tidy.idle();
  expect(existsSync(namespace.blobs)).toBe(false);
  expect(existsSync(fork.work)).toBe(false);
  expect((await fixture.row(fork.id)).worktree).toBe("discarded");
});

test("files that change while they are copied come as they were at the fork's moment", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  const path = (n: number) => join(namespace.live, `f${n}`);
  for (let n = 0; n < 300; n++) writeFileSync(path(n), `${n} `.repeat(200));
  await Bun.sleep(100);
  const state = { stopped: false, changes: 0 };
  const changing = (async () => {
    while (!state.stopped) {
      const n = Math.floor(Math.random() * 300);
      writeFileSync(`${path(n)}.new`, `changed ${state.changes++} `.repeat(200));
      renameSync(`${path(n)}.new`, path(n));
      await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  const fork = await fixture.fork(namespace);
  state.stopped = true;
  await changing;
  // What it has is what its base says, whatever came from where.
  const wrong = [];
  const manifest = await treeOfBase(fixture, namespace.id, fork.id);
  for (const [name, entry] of treeOnDisk(fork.work)) if (manifest.get(name) !== entry) wrong.push(name);
  expect(wrong).toEqual([]);
  expect(state.changes).toBeGreaterThan(0);
});

test("a start removes what has no run, and keeps what has one", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  const kept = await fixture.fork(namespace);
  const stray = runId.make();
  fixture.worktrees.prepare(stray);
  await fixture.worktrees.resume();
  expect(existsSync(kept.work)).toBe(true);
  expect(existsSync(join(fixture.dir, "runs", stray, "work"))).toBe(false);
});

async function treeOfBase(
  fixture: Awaited<ReturnType<typeof worktreeFixture>>,
  namespace: Parameters<typeof fixture.snapshots.blobsOf>[0],
  run: Parameters<typeof fixture.row>[0],
) {
  const base = baseOf(await fixture.row(run));
  if (base?.manifest == null) throw new Error("no base");
  return treeOfManifest(await fixture.snapshots.blobsOf(namespace), base.manifest);
}
