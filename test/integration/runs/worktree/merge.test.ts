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
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { allEvents, openIntents } from "../../../fixtures/chain.ts";
import { MergeConflict } from "../../../../src/runs/worktree/merge.ts";
import type { OnConflict } from "../../../../src/runs/worktree/plan.ts";
import { treeOnDisk } from "../../../fixtures/tree.ts";
import { worktreeFixture } from "../../../fixtures/worktrees.ts";

type Change = (root: string) => void;

/** A namespace and a fork of it, each changed after the fork as it says. */
async function both(plant: Change, run: Change, namespace: Change = () => {}) {
  const fixture = await worktreeFixture();
  const made = await fixture.namespace();
  plant(made.live);
  const fork = await fixture.fork(made);
  run(fork.work);
  namespace(made.live);
  return {
    fixture,
    ...made,
    fork,
    at: (path: string) => join(made.live, path),
    text: (path: string) => readFileSync(join(made.live, path), "utf8"),
    merge: async (onConflict: OnConflict = "fail") =>
      fixture.worktrees.merge(fork.id, fixture.call(made), onConflict),
    async conflicts() {
      const before = treeOnDisk(made.live);
      const error = await fixture.worktrees.merge(fork.id, fixture.call(made)).then(
        () => null,
        (thrown: unknown) => thrown,
      );
      if (!(error instanceof MergeConflict)) throw new Error(`no conflict: ${String(error)}`);
      expect(treeOnDisk(made.live)).toEqual(before);
      expect(readdirSync(made.tmp)).toEqual([]);
      return error.conflicts.map(({ path, run: mine, namespace: theirs }) => `${path}: ${mine}, ${theirs}`);
    },
    [Symbol.asyncDispose]: () => fixture[Symbol.asyncDispose](),
  };
}

const write =
  (...files: readonly (readonly [path: string, content: string])[]): Change =>
  (root) => {
    for (const [path, content] of files) {
      mkdirSync(join(root, path, ".."), { recursive: true });
      writeFileSync(join(root, path), content);
    }
  };
const remove =
  (...paths: readonly string[]): Change =>
  (root) => {
    for (const path of paths) rmSync(join(root, path), { recursive: true });
  };
const all =
  (...changes: readonly Change[]): Change =>
  (root) => {
    for (const change of changes) change(root);
  };

test("everything that a run can change is in the namespace afterwards, as the run had it", async () => {
  await using side = await both(
    all(
      write(
        ["kept", "k"],
        ["edited", "e"],
        ["dir/gone", "g"],
        ["old/a", "a"],
        ["old/b/c", "c"],
        ["was-file", "f"],
      ),
      write(["was-dir/in", "i"], ["script", "s"], ["one", "1"]),
      (live) => {
        linkSync(join(live, "one"), join(live, "two"));
        symlinkSync("kept", join(live, "link"));
        mkdirSync(join(live, "mode"));
      },
    ),
    all(
      write(["edited", "edited"], ["new/deep/er", "n"]),
      remove("dir/gone", "was-file", "was-dir"),
      write(["was-file/inside", "x"], ["was-dir", "now a file"]),
      (work) => {
        renameSync(join(work, "old"), join(work, "renamed"));
        chmodSync(join(work, "script"), 0o755);
        chmodSync(join(work, "mode"), 0o700);
        writeFileSync(join(work, "one"), "in place");
        rmSync(join(work, "link"));
        symlinkSync("/etc/passwd", join(work, "link"));
        mkdirSync(join(work, "empty"));
        writeFileSync(join(work, "large"), Buffer.alloc(5 * 1024 * 1024, 3));
        writeFileSync(Buffer.concat([Buffer.from(`${work}/`), Buffer.from([0xff, 0x0a])]), "no UTF-8");
        symlinkSync("dangling", join(work, "new-link"));
      },
    ),
  );
  const wanted = new Map([...treeOnDisk(side.fork.work)].map(([path, entry]) => [path, withoutTime(entry)]));
  const merged = await side.merge();
  expect(new Map([...treeOnDisk(side.live)].map(([path, entry]) => [path, withoutTime(entry)]))).toEqual(
    wanted,
  );
  // Those that it had and both names of the one that was written in place.
  expect(statSync(side.at("one")).ino).toBe(statSync(side.at("two")).ino);
  for (const path of ["edited", "new", "new/deep/er", "empty", "link"])
    expect(lstatSync(side.at(path)).uid).toBe(10_000);
  expect(merged).toMatchObject({ resolved: 0, skipped: 0 });
  expect(readdirSync(side.tmp)).toEqual([]);
  expect(await side.fixture.row(side.fork.id)).toMatchObject({ worktree: "merged", base: null });
  const events = (await allEvents(side.fixture.db)).filter(({ type }) => type === "run.merged");
  expect(events.map(({ data }) => data)).toEqual([
    { run_id: side.fork.id, files: merged.files, resolved: 0, skipped: 0, on_conflict: "fail" },
  ]);
  expect(await openIntents(side.fixture.db)).toBe(0);
});

/** Of directories, whose times are those of the merge. */
const withoutTime = (entry: string) =>
  entry.startsWith("dir") ? entry.split(" ").slice(0, 2).join(" ") : entry;

test("what only one side has changed is as that side left it", async () => {
  await using side = await both(
    write(["run", "r"], ["ns", "n"], ["same", "s"], ["both-gone", "b"], ["d/x", "x"]),
    all(write(["run", "by run"], ["new-run", "1"], ["same", "alike"]), remove("both-gone")),
    all(write(["ns", "by ns"], ["new-ns", "2"], ["same", "alike"], ["d/added", "y"]), remove("both-gone")),
  );
  expect(await side.merge()).toMatchObject({ files: 2 });
  expect(
    Object.fromEntries(
      ["run", "ns", "same", "new-run", "new-ns", "d/added"].map((path) => [path, side.text(path)]),
    ),
  ).toEqual({
    run: "by run",
    ns: "by ns",
    same: "alike",
    "new-run": "1",
    "new-ns": "2",
    "d/added": "y",
  });
  expect(existsSync(side.at("both-gone"))).toBe(false);
});

test("a path that both have changed is a conflict, and nothing is merged", async () => {
  await using side = await both(
    write(["edited", "e"], ["gone-here", "g"], ["gone-there", "g"], ["fine", "f"], ["mode", "m"]),
    all(
      write(["edited", "run"], ["gone-here", "run"], ["new", "run"], ["fine", "run"]),
      remove("gone-there"),
      (work) => chmodSync(join(work, "mode"), 0o755),
    ),
    all(write(["edited", "ns"], ["gone-there", "ns"], ["new", "ns"], ["mode", "ns"]), remove("gone-here")),
  );
  expect(await side.conflicts()).toEqual([
    "edited: modified, modified",
    "gone-here: modified, deleted",
    "gone-there: deleted, modified",
    "mode: modified, modified",
    "new: added, added",
  ]);
  expect(await openIntents(side.fixture.db)).toBe(0);
  // It is still there, for another try.
  expect(await side.merge("namespace")).toMatchObject({ files: 1, resolved: 5 });
  expect(side.text("fine")).toBe("run");
  expect(side.text("edited")).toBe("ns");
  expect(existsSync(side.at("gone-here"))).toBe(false);
  expect(side.text("gone-there")).toBe("ns");
});

test("a conflict at a path that is not UTF-8 says which it is; of very many it says that there are more", async () => {
  const name = (root: string) => Buffer.concat([Buffer.from(`${root}/d/`), Buffer.from([0x78, 0xff])]);
  await using side = await both(
    write(["d/other", "x"]),
    (work) => writeFileSync(name(work), "run"),
    (live) => writeFileSync(name(live), "ns"),
  );
  const refused = await side.merge().catch((error: unknown) => error);
  expect(refused).toMatchObject({
    conflicts: [{ path: "d/x\ufffd", path_base64: "ZC94/w==", run: "added", namespace: "added" }],
    truncated: false,
  });
  const one = { path: "x", run: "added", namespace: "added" } as const;
  const many = new MergeConflict(Array.from({ length: 1001 }, () => one));
  expect([many.conflicts.length, many.truncated]).toEqual([1000, true]);
});

test("on_conflict: run takes the run's side, whatever stands in its way", async () => {
  await using side = await both(
    write(["edited", "e"], ["gone-here", "g"], ["gone-there", "g"], ["a/b/c", "c"], ["f", "f"]),
    all(
      write(["edited", "run"], ["gone-here", "run"], ["a/b/c", "run"], ["f", "run"], ["x/y", "run"]),
      remove("gone-there"),
    ),
    all(
      write(["edited", "ns"], ["gone-there", "ns"]),
      remove("gone-here", "a", "f"),
      write(["a", "now a file"], ["f/inside", "now a directory"], ["x", "a file"]),
    ),
  );
  expect(await side.conflicts()).toEqual([
    "a/b/c: modified, deleted",
    "edited: modified, modified",
    "f: modified, modified",
    "gone-here: modified, deleted",
    "gone-there: deleted, modified",
    "x: added, added",
  ]);
  expect(await side.merge("run")).toMatchObject({ resolved: 6 });
  for (const path of ["edited", "gone-here", "a/b/c", "f", "x/y"]) expect(side.text(path)).toBe("run");
  expect(existsSync(side.at("gone-there"))).toBe(false);
});

test("a directory that the run deleted stays for what was put into it since", async () => {
  await using side = await both(
    write(["d/one", "1"], ["d/two", "2"], ["d/e/three", "3"]),
    remove("d"),
    write(["d/e/added", "since"]),
  );
  await side.merge();
  expect(readdirSync(side.live, { recursive: true }).map(String).sort()).toEqual(["d", "d/e", "d/e/added"]);
});

test("a directory that the run made a file is only replaced with all that is in it", async () => {
  const plant = write(["d/one", "1"], ["d/e/two", "2"]);
  const run = all(remove("d"), write(["d", "a file"]));
  await using clean = await both(plant, run);
  await clean.merge();
  expect(clean.text("d")).toBe("a file");
  await using side = await both(plant, run, write(["d/e/added", "since"], ["d/one", "changed"]));
  expect(await side.conflicts()).toEqual(["d/one: deleted, modified", "d/e/added: deleted, added"]);
  await side.merge("namespace");
  expect(side.text("d/one")).toBe("changed");
  expect(side.text("d/e/two")).toBe("2");
});

test("files that a run added to a directory that is gone since come with the directory", async () => {
  await using side = await both(
    all(write(["d/e/one", "1"]), (live) => chmodSync(join(live, "d"), 0o750)),
    write(["d/e/new", "n"]),
    remove("d"),
  );
  await side.merge();
  expect(readdirSync(side.live, { recursive: true }).map(String).sort()).toEqual(["d", "d/e", "d/e/new"]);
  expect(statSync(side.at("d")).mode & 0o777).toBe(0o750);
  expect(statSync(side.at("d")).uid).toBe(10_000);
});

test("a change in the namespace is seen whatever its size and times say, and a touch is none", async () => {
  await using side = await both(
    write(["faked", "before"], ["touched", "same"]),
    write(["faked", "by run"], ["touched", "by run"]),
    (live) => {
      writeFileSync(join(live, "faked"), "after!");
      writeFileSync(join(live, "touched"), "same");
    },
  );
  expect(await side.conflicts()).toEqual(["faked: modified, modified"]);
});

test("what no namespace takes stays behind, and what stands in its place there stays", async () => {
  await using side = await both(write(["f", "f"]), (work) => {
    rmSync(join(work, "f"));
    Bun.spawnSync(["mkfifo", join(work, "f"), join(work, "new")]);
    writeFileSync(join(work, "file"), "x");
  });
  expect(await side.merge()).toEqual({ files: 1, resolved: 0, skipped: 2 });
  expect(side.text("f")).toBe("f");
  expect(existsSync(side.at("new"))).toBe(false);
});

test("a worktree that began empty, or from a snapshot, is merged by content", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  write(["a", "a"], ["b", "b"])(namespace.live);
  const snapshot = await namespace.create();
  write(["b", "changed since"])(namespace.live);
  const fork = await fixture.fork(namespace, { from: "snapshot", snapshot_id: snapshot.id });
  write(["a", "by run"], ["b", "by run"])(fork.work);
  const call = fixture.call(namespace);
  const refused = await fixture.worktrees.merge(fork.id, call).catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(MergeConflict);
  await fixture.worktrees.merge(fork.id, call, "run");
  const empty = await fixture.fork(namespace, { from: "empty" });
  write(["new", "n"], ["a", "by run"])(empty.work);
  expect(await fixture.worktrees.merge(empty.id, call)).toMatchObject({ files: 1 });
  expect(readFileSync(join(namespace.live, "b"), "utf8")).toBe("by run");
});

test("a run that goes on is not merged, and a merged one has no worktree any more", async () => {
  await using side = await both(write(["f", "f"]), write(["f", "run"]));
  await side.fixture.rows.update(side.fork.id, { status: "running" });
  expect(await side.merge().catch((error: unknown) => error)).toMatchObject({ code: "conflict" });
  await side.fixture.rows.update(side.fork.id, { status: "succeeded" });
  await side.merge();
  const gone = { code: "conflict" };
  expect(await side.merge().catch((error: unknown) => error)).toMatchObject(gone);
  expect(await side.fixture.worktrees.diff(side.fork.id).catch((error: unknown) => error)).toMatchObject(
    gone,
  );
});

test("more than the quota has room for is refused, and nothing is merged", async () => {
  await using fixture = await worktreeFixture({ quota: { namespace_mb: 2 } });
  const namespace = await fixture.namespace();
  write(["a", "a"])(namespace.live);
  const fork = await fixture.fork(namespace);
  writeFileSync(join(fork.work, "large"), Buffer.alloc(3 * 1024 * 1024));
  write(["a", "by run"])(fork.work);
  const merging = fixture.worktrees.merge(fork.id, fixture.call(namespace));
  expect(await merging.catch((error: unknown) => error)).toMatchObject({ code: "no_space" });
  expect(readFileSync(join(namespace.live, "a"), "utf8")).toBe("a");
  expect(readdirSync(namespace.tmp)).toEqual([]);
});

test("what runs in the namespace stands still for the last look and the change, and goes on whatever comes of it", async () => {
  const seen: string[] = [];
  const looked = { at: "", standing: false };
  const content = () => readFileSync(looked.at, "utf8");
  await using fixture = await worktreeFixture({
    standstill: {
      isWarm: () => true,
      async freeze() {
        if (looked.at === "") return null;
        seen.push(`stands still: ${content()}`);
        return {
          async thaw() {
            seen.push(`goes on: ${content()}`);
            return true;
          },
        };
      },
    },
  });
  const namespace = await fixture.namespace();
  write(["a", "before"])(namespace.live);
  const [one, two] = [await fixture.fork(namespace), await fixture.fork(namespace)];
  looked.at = join(namespace.live, "a");
  write(["a", "by one"])(one.work);
  write(["a", "by two"])(two.work);
  const call = fixture.call(namespace);
  await fixture.worktrees.merge(one.id, call);
  expect(seen).toEqual(["stands still: before", "goes on: by one"]);
  // Found before anything has to stand still.
  expect(await fixture.worktrees.merge(two.id, call).catch((error: unknown) => error)).toBeInstanceOf(
    MergeConflict,
  );
  expect(seen.length).toBe(2);
  await fixture.worktrees.merge(two.id, call, "run");
  expect(seen.slice(2)).toEqual(["stands still: by one", "goes on: by two"]);
});

test("what changes between the first look and the last is seen by the last", async () => {
  const late: { change?: () => void } = {};
  await using fixture = await worktreeFixture({
    standstill: {
      isWarm: () => false,
      async freeze() {
        late.change?.();
        return null;
      },
    },
  });
  const namespace = await fixture.namespace();
  write(["a", "before"], ["b", "before"])(namespace.live);
  const fork = await fixture.fork(namespace);
  write(["a", "by run"], ["b", "by run"])(fork.work);
  late.change = () => write(["b", "changed"])(namespace.live);
  const refused = await fixture.worktrees
    .merge(fork.id, fixture.call(namespace))
    .catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(MergeConflict);
  expect((refused as MergeConflict).conflicts).toEqual([
    { path: "b", run: "modified", namespace: "modified" },
  ]);
  expect(readFileSync(join(namespace.live, "a"), "utf8")).toBe("before");
  expect(readdirSync(namespace.tmp)).toEqual([]);
  expect(await openIntents(fixture.db)).toBe(0);
});
