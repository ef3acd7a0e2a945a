import { expect, test } from "bun:test";
import {
  chmodSync,
  cpSync,
  linkSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { $ } from "bun";
import { scratchDirectory } from "../../../fixtures/scratch.ts";
import { treeOnDisk } from "../../../fixtures/tree.ts";
import { worktreeFixture } from "../../../fixtures/worktrees.ts";

/** As its tenant's programs would, whatever they have changed. */
async function forked(plant: (live: string) => void, change: (work: string) => void) {
  const fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  plant(namespace.live);
  const fork = await fixture.fork(namespace);
  change(fork.work);
  const { changes, truncated } = await fixture.worktrees.diff(fork.id);
  return {
    fixture,
    namespace,
    fork,
    changes,
    truncated,
    [Symbol.asyncDispose]: () => fixture[Symbol.asyncDispose](),
  };
}

const inShort = (changes: readonly { change: string; path: string; from?: string }[]) =>
  changes.map(({ change, path, from }) => `${change} ${path}${from === undefined ? "" : ` from ${from}`}`);

test("an untouched fork has no difference", async () => {
  const touch = (work: string) => utimesSync(join(work, "d/file"), 1, 1);
  await using found = await forked((live) => {
    mkdirSync(join(live, "d"));
    writeFileSync(join(live, "d/file"), "x");
    linkSync(join(live, "d/file"), join(live, "other"));
    symlinkSync("nowhere", join(live, "link"));
  }, touch);
  expect(found.changes).toEqual([]);
  expect(found.truncated).toBe(false);
});

test("every kind of change is named, with sizes and modes", async () => {
  await using found = await forked(
    (live) => {
      mkdirSync(join(live, "gone/deep"), { recursive: true });
      mkdirSync(join(live, "became-file"));
      mkdirSync(join(live, "mode"), { mode: 0o755 });
      for (const name of [
        "gone/one",
        "gone/deep/two",
        "kept",
        "edited",
        "script",
        "became-dir",
        "became-file/in",
      ])
        writeFileSync(join(live, name), `${name}\n`);
      symlinkSync("one", join(live, "link"));
    },
    (work) => {
      rmSync(join(work, "gone"), { recursive: true });
      writeFileSync(join(work, "edited"), "edited\nmore\n");
      chmodSync(join(work, "script"), 0o755);
      chmodSync(join(work, "mode"), 0o700);
      rmSync(join(work, "became-dir"));
      mkdirSync(join(work, "became-dir"));
      writeFileSync(join(work, "became-dir/inner"), "x");
      rmSync(join(work, "became-file"), { recursive: true });
      writeFileSync(join(work, "became-file"), "now a file\n");
      rmSync(join(work, "link"));
      symlinkSync("two", join(work, "link"));
      mkdirSync(join(work, "new/empty"), { recursive: true });
      writeFileSync(join(work, "new/file"), "");
    },
  );
  expect(inShort(found.changes)).toEqual([
    "modified became-dir",
    "added became-dir/inner",
    "modified became-file",
    "deleted became-file/in",
    "modified edited",
    "deleted gone/deep/two",
    "deleted gone/one",
    "modified link",
    "modified mode",
    "added new/empty",
    "added new/file",
    "modified script",
  ]);
  const of = (path: string) => found.changes.find((change) => change.path === path);
  expect(of("edited")).toMatchObject({ size_before: 7, size_after: 12, type: "file", binary: false });
  expect(of("edited")?.patch).toContain("@@ -1 +1,2 @@\n edited\n+more\n");
  expect(of("script")).toMatchObject({ mode_before: "0644", mode_after: "0755" });
  expect(of("mode")).toMatchObject({
    type: "directory",
    mode_before: "0755",
    mode_after: "0700",
    patch: null,
  });
  expect(of("became-dir")).toMatchObject({ type: "directory", type_before: "file" });
  expect(of("gone/one")).toMatchObject({ size_before: 9, size_after: null });
});

test("a change is found whatever its size and times say", async () => {
  await using found = await forked(
    (live) => {
      for (const dir of ["a", "b"]) {
        mkdirSync(join(live, dir));
        writeFileSync(join(live, dir, "same"), `in ${dir}`);
        utimesSync(join(live, dir, "same"), 1000, 1000);
      }
      writeFileSync(join(live, "faked"), "before");
      utimesSync(join(live, "faked"), 1000, 1000);
    },
    (work) => {
      writeFileSync(join(work, "faked"), "after!");
      utimesSync(join(work, "faked"), 1000, 1000);
      // Their files are not touched by this.
      renameSync(join(work, "a"), join(work, "c"));
      renameSync(join(work, "b"), join(work, "a"));
      renameSync(join(work, "c"), join(work, "b"));
    },
  );
  expect(inShort(found.changes)).toEqual(["modified a/same", "modified b/same", "modified faked"]);
});

test("renames are found by inode, and by content where a program wrote the file anew", async () => {
  const text = Array.from({ length: 50 }, (_, n) => `line ${n}\n`).join("");
  await using found = await forked(
    (live) => {
      mkdirSync(join(live, "dir"));
      for (const name of ["moved", "edited", "copied", "dir/in"])
        writeFileSync(join(live, name), `${name}\n${text}`);
    },
    (work) => {
      renameSync(join(work, "moved"), join(work, "z-moved"));
      renameSync(join(work, "edited"), join(work, "z-edited"));
      writeFileSync(join(work, "z-edited"), `edited\n${text}more\n`);
      cpSync(join(work, "copied"), join(work, "z-copied"));
      rmSync(join(work, "copied"));
      renameSync(join(work, "dir"), join(work, "other"));
    },
  );
  expect(inShort(found.changes)).toEqual([
    "renamed other/in from dir/in",
    "renamed z-copied from copied",
    "renamed z-edited from edited",
    "renamed z-moved from moved",
  ]);
  const [, , edited] = found.changes;
  expect(edited?.patch).toContain("rename from edited\nrename to z-edited\n");
  expect(edited?.patch).toContain("+more\n");
});

test("what is binary, long, or of a name that is no text is shown as far as it can be", async () => {
  await using found = await forked(
    (live) => writeFileSync(join(live, "binary"), Buffer.from([1, 0, 2])),
    (work) => {
      writeFileSync(join(work, "binary"), Buffer.from([1, 0, 2, 3]));
      writeFileSync(join(work, "latin1"), Buffer.from([0xe9, 0x0a]));
      writeFileSync(join(work, "long"), "a line\n".repeat(100_000));
      writeFileSync(Buffer.concat([Buffer.from(`${work}/`), Buffer.from([0x61, 0xff])]), "x");
      Bun.spawnSync(["mkfifo", join(work, "fifo")]);
    },
  );
  expect(found.changes.map(({ path, binary, patch }) => [path, binary, patch === null])).toEqual([
    ["a\ufffd", false, true],
    ["binary", true, true],
    ["latin1", true, true],
    ["long", false, true],
  ]);
  expect(found.changes[0]?.path_base64).toBe(Buffer.from([0x61, 0xff]).toString("base64"));
  expect(found.truncated).toBe(true);
});

test("git applies all patches together to what was there before", async () => {
  using scratch = scratchDirectory();
  const random = (n: number) =>
    Array.from({ length: n }, () => `${Math.floor(Math.random() * 9)}\n`).join("");
  await using found = await forked(
    (live) => {
      mkdirSync(join(live, "d"));
      for (let n = 0; n < 30; n++)
        writeFileSync(join(live, `d/f${n}`), random(Math.floor(Math.random() * 60)));
      writeFileSync(join(live, "no end"), "one\ntwo");
      writeFileSync(join(live, 'quoted "é"\t\\'), "one\ntwo\n");
      writeFileSync(join(live, "wide"), random(5000));
      writeFileSync(join(live, "script"), "x\n");
      symlinkSync("one", join(live, "link"));
      cpSync(live, join(scratch.path, "before"), { recursive: true, verbatimSymlinks: true });
    },
    (work) => {
      for (let n = 0; n < 30; n++) {
        if (n % 7 === 0) rmSync(join(work, `d/f${n}`));
        else writeFileSync(join(work, `d/f${n}`), random(Math.floor(Math.random() * 60)));
      }
      writeFileSync(join(work, "no end"), "one\nthree");
      writeFileSync(join(work, 'quoted "é"\t\\'), "one\nthree\n");
      // More than is searched for the shortest.
      writeFileSync(join(work, "wide"), `first\n${random(5000)}last`);
      writeFileSync(join(work, "added here"), "new\n");
      writeFileSync(join(work, "empty"), "");
      chmodSync(join(work, "script"), 0o755);
      renameSync(join(work, "script"), join(work, "moved"));
      rmSync(join(work, "link"));
      symlinkSync("two", join(work, "link"));
    },
  );
  const before = join(scratch.path, "before");
  writeFileSync(join(scratch.path, "patch"), found.changes.map(({ patch }) => patch ?? "").join(""));
  await $`git init -q . && git apply --unsafe-paths ../patch`.cwd(before).quiet();
  rmSync(join(before, ".git"), { recursive: true });
  const withoutTimes = (root: string) =>
    [...treeOnDisk(root)]
      .map(([path, entry]) => [path, entry.replace(/ \d{15,}/, "")])
      .filter(([, entry]) => !entry?.startsWith("dir"));
  expect(withoutTimes(before)).toEqual(withoutTimes(found.fork.work));
  expect(readFileSync(join(before, "no end"), "utf8")).toBe("one\nthree");
});

test("the result's hash is over what the changes are, and nothing else", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  writeFileSync(join(namespace.live, "file"), "x");
  const settled = async (change: (work: string) => void) => {
    const fork = await fixture.fork(namespace);
    change(fork.work);
    return fixture.worktrees.settle(fork.id);
  };
  const write = (content: string) => (work: string) => writeFileSync(join(work, "new"), content);
  const [none, one, again, other] = [
    await settled(() => {}),
    await settled(write("one")),
    await settled(write("one")),
    await settled(write("two")),
  ];
  expect(none).toMatchObject({ changes: 0, skipped: 0 });
  expect(one.hash).toBe(again.hash);
  expect(new Set([none.hash, one.hash, other.hash]).size).toBe(3);
  expect(one.changes).toBe(1);
});

test("of a file with more names each name is looked at for itself", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  writeFileSync(join(namespace.live, "a"), "first");
  for (const name of ["b", "c", "d", "e"]) linkSync(join(namespace.live, "a"), join(namespace.live, name));
  const fork = await fixture.fork(namespace);
  // Another one in the place of two names; the others are only touched.
  writeFileSync(join(fork.work, "other"), "other");
  for (const name of ["b", "d"]) {
    rmSync(join(fork.work, name));
    linkSync(join(fork.work, "other"), join(fork.work, name));
  }
  utimesSync(join(fork.work, "a"), 1, 1);
  const { changes } = await fixture.worktrees.diff(fork.id);
  expect(changes.map(({ path, change }) => `${path} ${change}`)).toEqual([
    "b modified",
    "d modified",
    "other added",
  ]);
});
