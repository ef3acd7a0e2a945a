import { expect, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { AppError } from "../../../../src/errors.ts";
import { scratchDirectory } from "../../../fixtures/scratch.ts";
import { treeOnDisk } from "../../../fixtures/tree.ts";
import { worktreeFixture } from "../../../fixtures/worktrees.ts";

const SECRET = "the host's secret";

/** Somewhere outside of what a tenant has, with a file to be read and room to write. */
function outside() {
  const scratch = scratchDirectory();
  writeFileSync(join(scratch.path, "secret"), SECRET);
  mkdirSync(join(scratch.path, "inner"));
  return scratch;
}

/** Exchanges `name` and `name2`, for each of the names, as fast as the kernel lets it. */
async function swapping<T>(dir: string, names: readonly string[], use: () => Promise<T>): Promise<T> {
  const swapper = join(import.meta.dir, "../../../fixtures/swapper.ts");
  const children = names.map((name) =>
    Bun.spawn([process.execPath, swapper, dir, name, `${name}2`], { stdout: "pipe", stderr: "ignore" }),
  );
  try {
    await Promise.all(children.map(async ({ stdout }) => stdout.getReader().read()));
    return await use();
  } finally {
    for (const child of children) child.kill("SIGKILL");
    await Promise.all(children.map(async ({ exited }) => exited));
  }
}

function reads(path: string): boolean {
  try {
    return readFileSync(path, "utf8").includes(SECRET);
  } catch {
    return false;
  }
}

test("whatever a run swaps while its worktree is looked at, nothing from outside is in what is shown", async () => {
  await using fixture = await worktreeFixture();
  using away = outside();
  const namespace = await fixture.namespace();
  const { id, work } = await fixture.fork(namespace);
  const at = (name: string) => join(work, name);
  mkdirSync(at("dir"));
  writeFileSync(at("dir/secret"), "the tenant's own\n");
  symlinkSync(away.path, at("dir2"));
  writeFileSync(at("file"), "the tenant's own\n");
  symlinkSync(join(away.path, "secret"), at("file2"));
  writeFileSync(at("pipe"), "the tenant's own\n");
  Bun.spawnSync(["mkfifo", at("pipe2")]);
  await swapping(work, ["dir", "file", "pipe"], async () => {
    // Positive control: who looks and then opens by name does see it.
    for (let seen = 0; seen < 3;) seen += Number(reads(at("dir/secret"))) + Number(reads(at("file")));
    let shown = 0;
    for (let round = 0; round < 60; round++) {
      const { changes } = await fixture.worktrees.diff(id);
      // A link's target is the tenant's own text; no content of what it leads to may be there.
      expect(JSON.stringify(changes)).not.toContain(SECRET);
      shown += changes.filter(({ patch }) => patch?.includes("the tenant's own") === true).length;
      await fixture.worktrees.settle(id);
      await fixture.worktrees.measure(id);
    }
    expect(shown).toBeGreaterThan(0);
  });
}, 60_000);

test("whatever is swapped in the namespace or the worktree while they are merged, nothing outside is touched", async () => {
  await using fixture = await worktreeFixture();
  using away = outside();
  const namespace = await fixture.namespace();
  const live = (name: string) => join(namespace.live, name);
  // In the base, so that the run changes, deletes and adds beneath it.
  mkdirSync(live("dir/inner"), { recursive: true });
  for (let n = 0; n < 20; n++) writeFileSync(live(`dir/f${n}`), `${n}`);
  symlinkSync(away.path, live("dir2"));
  const before = treeOnDisk(away.path);
  const ends = { merged: 0, refused: 0 };
  for (let round = 0; round < 12; round++) {
    const { id, work } = await fixture.fork(namespace);
    for (let n = 0; n < 20; n++) {
      if (n % 3 === 0) rmSync(join(work, `dir/f${n}`), { force: true });
      else writeFileSync(join(work, `dir/f${n}`), `round ${round}`);
    }
    mkdirSync(join(work, "dir/inner"), { recursive: true });
    writeFileSync(join(work, `dir/inner/new${round}`), SECRET.slice(0, 3));
    rmSync(join(work, "dir2"), { force: true, recursive: true });
    const merging = async () =>
      fixture.worktrees.merge(id, fixture.call(namespace), "run").then(
        () => (ends.merged += 1),
        (error: unknown) => {
          // What moves while it is read may be a refusal, never a fault.
          if (!(error instanceof AppError)) throw error;
          ends.refused += 1;
        },
      );
    await swapping(namespace.live, ["dir"], merging);
    expect(treeOnDisk(away.path)).toEqual(before);
    rmSync(live("dir2"), { force: true, recursive: true });
    rmSync(live("dir"), { force: true, recursive: true });
    mkdirSync(live("dir/inner"), { recursive: true });
    for (let n = 0; n < 20; n++) writeFileSync(live(`dir/f${n}`), `${n}`);
    symlinkSync(away.path, live("dir2"));
  }
  expect(ends.merged).toBeGreaterThan(0);
  expect(readdirSync(namespace.tmp)).toEqual([]);
}, 60_000);

test("a worktree of any depth and breadth is looked at within bounds", async () => {
  await using fixture = await worktreeFixture();
  const namespace = await fixture.namespace();
  const { id, work } = await fixture.fork(namespace);
  // Deeper than a path may be long, as a command can make it.
  const make = `import os
os.chdir(${JSON.stringify(work)})
for n in range(1000):
    os.mkdir("level"); os.chdir("level")
open("bottom", "w").write("bottom")
os.chdir(${JSON.stringify(work)})
os.mkdir("wide")
for n in range(4500): open("wide/f%d" % n, "w").write("x")
`;
  const script = join(fixture.dir, "make.py");
  writeFileSync(script, make);
  expect(Bun.spawnSync(["/usr/bin/python3", script]).exitCode).toBe(0);
  const { changes, truncated } = await fixture.worktrees.diff(id);
  expect(truncated).toBe(true);
  expect(changes.length).toBeLessThanOrEqual(5000);
  expect(changes[0]?.path.length).toBeGreaterThan(5000);
  expect(changes[0]).toMatchObject({ change: "added", patch: null });
  expect(await fixture.worktrees.settle(id)).toMatchObject({ changes: 1000 + 1 + 1 + 4500 });
  const refused = await fixture.worktrees.merge(id, fixture.call(namespace)).catch((error: unknown) => error);
  expect(refused).toMatchObject({ code: "too_large" });
  await fixture.worktrees.discard(id, fixture.call(namespace));
  expect(readdirSync(join(fixture.dir, "runs"))).toEqual([".trash"]);
}, 60_000);
