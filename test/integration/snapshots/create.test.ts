import { expect, test } from "bun:test";
import {
  appendFileSync,
  chmodSync,
  closeSync,
  ftruncateSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { walk } from "../../../src/snapshots/walk.ts";
import { Descriptor } from "../../../src/volumes/descriptor.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { openDescriptors, scratchDirectory } from "../../fixtures/scratch.ts";
import { plant } from "../../fixtures/planted.ts";
import { snapshotMaker } from "../../fixtures/snapshot-maker.ts";
import { dataBytes, treeOfManifest, treeOnDisk, type Tree } from "../../fixtures/tree.ts";

const MIB = 1024 * 1024;
/** Longer ago than any clock's tick, so that the incremental rule has something to trust. */
const settle = () => Bun.sleep(2_100);

function plantTree(live: string): void {
  const at = (name: string) => join(live, name);
  mkdirSync(at("empty"));
  mkdirSync(at("a/b/c"), { recursive: true });
  // In the order of paths as text, a-b lies between a and a/b; in a manifest's it does not.
  writeFileSync(at("a-b"), "between");
  writeFileSync(at("a/b/c/deep"), "deep");
  writeFileSync(at("empty file"), "");
  writeFileSync(at('quote"back\\slash\nnewline'), "odd");
  writeFileSync(Buffer.concat([Buffer.from(`${live}/`), Buffer.from([0xff, 0xc0, 0x20])]), "not UTF-8");
  writeFileSync(at("\uFEFFbom é 😀"), "text");
  writeFileSync(at("large"), Buffer.alloc(9 * MIB + 77, "0123456789abcdef-"));
  writeFileSync(at("just below"), Buffer.alloc(MIB - 1, "x"));
  writeFileSync(at("script"), "#!/bin/sh\n", { mode: 0o755 });
  chmodSync(at("script"), 0o4751);
  chmodSync(at("empty"), 0o1700);
  symlinkSync("/etc/shadow", at("to shadow"));
  symlinkSync("nowhere/\n", at("dangling"));
  symlinkSync("..", at("a/up"));
  linkSync(at("a/b/c/deep"), at("z linked"));
  linkSync(at("large"), at("a/large too"));
  linkSync(at("z linked"), at("zz linked"));
  const sparse = openSync(at("sparse"), "w");
  for (const position of [0, 5 * MIB, 64 * MIB]) writeSync(sparse, "data", position);
  ftruncateSync(sparse, 100 * MIB);
  closeSync(sparse);
  const hole = openSync(at("only a hole"), "w");
  ftruncateSync(hole, 3 * MIB);
  closeSync(hole);
  utimesSync(at("a-b"), 1, 2);
  utimesSync(at("a/b"), 1_000_000_000, -5);
  lutimesSync(at("dangling"), 3, 4);
}

test("a snapshot holds the tree as it is: links, holes, modes, times, and names of any bytes", async () => {
  using maker = snapshotMaker();
  plantTree(maker.live);
  Bun.spawnSync(["mkfifo", join(maker.live, "fifo")]);
  using _server = Bun.listen({ unix: join(maker.live, "socket"), socket: { data() {} } });
  const expected = treeOnDisk(maker.live);
  expect([...expected.values()].filter((entry) => entry.startsWith("same as"))).toHaveLength(3);
  const before = openDescriptors(dirname(maker.live));
  const made = await maker.create();
  expect(openDescriptors(dirname(maker.live))).toBe(before);
  expect(await treeOfManifest(maker.blobs, made.manifest)).toEqual(expected);
  expect(made.skipped).toBe(2);
  expect(made.fileCount).toBe([...expected.values()].filter((entry) => /^(file|same as)/.test(entry)).length);
  // The holes are none of it.
  expect(await dataBytes(maker.blobs, made.manifest)).toBeLessThan(11 * MIB);
}, 120_000);

test.concurrent("only what changed is read", async () => {
  using maker = snapshotMaker();
  plantTree(maker.live);
  const at = (name: string) => join(maker.live, name);
  await settle();
  const first = await maker.create();
  const none = await maker.create({ base: first.manifest });
  expect(none.readBytes).toBe(0);
  // The head says when it was made; all else is the same.
  expect(none.manifest.blobs.slice(1)).toEqual(first.manifest.blobs.slice(1));

  writeFileSync(at("a/b/c/deep"), "changed");
  chmodSync(at("script"), 0o700);
  renameSync(at("just below"), at("moved"));
  rmSync(at("empty"), { recursive: true });
  unlinkSync(at("a/large too"));
  mkdirSync(at("a/new/er"), { recursive: true });
  writeFileSync(at("a/new/er/file"), "new");
  writeFileSync(at("dangling 2"), "between two that stay");
  const second = await maker.create({ base: none.manifest });
  expect(await treeOfManifest(maker.blobs, second.manifest)).toEqual(treeOnDisk(maker.live));
  // What was renamed or linked has another ctime; it is read, but not stored again.
  expect(second.newBytes).toBe(["changed", "new", "between two that stay"].join("").length);
}, 120_000);

test.concurrent("a file that is replaced by one of the same size and times is read", async () => {
  using maker = snapshotMaker();
  const file = join(maker.live, "file");
  writeFileSync(file, "before");
  utimesSync(file, 1, 1);
  await settle();
  const first = await maker.create();
  writeFileSync(file, "behind");
  utimesSync(file, 1, 1);
  const second = await maker.create({ base: first.manifest });
  expect(await treeOfManifest(maker.blobs, second.manifest)).toEqual(treeOnDisk(maker.live));
});

test.concurrent("what changed just before the last snapshot is read again, since a clock's tick could hide more", async () => {
  using maker = snapshotMaker();
  writeFileSync(join(maker.live, "file"), "just written");
  const first = await maker.create();
  const second = await maker.create({ base: first.manifest });
  expect(second.readBytes).toBe("just written".length);
  await settle();
  const third = await maker.create({ base: second.manifest });
  const fourth = await maker.create({ base: third.manifest });
  expect(fourth.readBytes).toBe(0);
});

test("equal content is stored once: in one snapshot, and in one that comes later", async () => {
  using maker = snapshotMaker();
  const at = (name: string) => join(maker.live, name);
  const small = crypto.getRandomValues(Buffer.alloc(50_000));
  const large = Buffer.concat(
    Array.from({ length: 100 }, () => crypto.getRandomValues(Buffer.alloc(60_000))),
  );
  for (const name of ["1", "2", "3"]) {
    writeFileSync(at(`small ${name}`), small);
    writeFileSync(at(`large ${name}`), large);
  }
  const first = await maker.create();
  expect(first.sizeBytes).toBe(3 * (small.length + large.length));
  expect(first.newBytes).toBe(small.length + large.length);
  writeFileSync(at("small 4"), small);
  writeFileSync(at("large 4"), large);
  const second = await maker.create({ base: first.manifest });
  expect(second.newBytes).toBe(0);
  expect(await treeOfManifest(maker.blobs, second.manifest)).toEqual(treeOnDisk(maker.live));
});

test("while files are written, a snapshot is what was there when nothing moved", async () => {
  let moving = true;
  const stills: Tree[] = [];
  using maker = snapshotMaker({
    isWarm: () => true,
    async freeze() {
      moving = false;
      stills.push(treeOnDisk(maker.live));
      return {
        async thaw() {
          moving = true;
          return true;
        },
      };
    },
  });
  // More than is read while everything waits: it takes more than one pass.
  for (let file = 0; file < 1_200; file++) writeFileSync(join(maker.live, `f${file}`), `${file}`);
  let writes = 0;
  const write = () => {
    writes += 1;
    appendFileSync(join(maker.live, "log"), `line ${writes}\n`);
    writeFileSync(join(maker.live, `f${writes % 1_200}`), `again ${writes}`);
    renameSync(join(maker.live, `f${writes % 7}`), join(maker.live, `moved ${writes}`));
    writeFileSync(join(maker.live, `f${writes % 7}`), "new");
  };
  const timer = setInterval(() => moving && write());
  write();
  const made = await maker.create();
  clearInterval(timer);
  expect(writes).toBeGreaterThan(1);
  expect(await treeOfManifest(maker.blobs, made.manifest)).toEqual(stills.at(-1) ?? new Map());
  expect(made.manifest.blobs.length).toBeGreaterThan(1);
  console.log(`${writes} rounds of writes, ${stills.length} pauses`);
}, 120_000);

test("a base that is damaged costs only that everything is read", async () => {
  using maker = snapshotMaker();
  writeFileSync(join(maker.live, "file"), "content");
  const first = await maker.create();
  for (const index of [0, 1]) {
    const id = first.manifest.blobs[index] ?? "";
    for (const [key, bytes] of maker.objects) {
      if (key.endsWith(id))
        maker.objects.set(
          key,
          bytes.map((byte, at) => (at === 20 ? byte ^ 1 : byte)),
        );
    }
    const second = await maker.create({ base: first.manifest });
    expect(await treeOfManifest(maker.blobs, second.manifest)).toEqual(treeOnDisk(maker.live));
  }
});

test("a namespace that did not stand still has no snapshot", async () => {
  using maker = snapshotMaker({ isWarm: () => true, freeze: async () => ({ thaw: async () => false }) });
  expect(await failureOf(maker.create())).toContain("while its commands wait");
});

test("a snapshot is given up when nobody waits for it", async () => {
  using maker = snapshotMaker();
  for (let file = 0; file < 2_000; file++) writeFileSync(join(maker.live, `f${file}`), `${file}`);
  const gone = AbortSignal.abort(new Error("the caller left"));
  expect(await failureOf(maker.create({ signal: gone }))).toBe("the caller left");
});

test("what is removed while the walk is in it, or before, is no failure", () => {
  using scratch = scratchDirectory();
  mkdirSync(join(scratch.path, "a/b/c"), { recursive: true });
  mkdirSync(join(scratch.path, "d"));
  using root = new Descriptor(openSync(scratch.path, "r"));
  const seen: string[] = [];
  for (const found of walk(root)) {
    if (found === null) continue;
    seen.push(found.text);
    if (found.text === "b") rmSync(join(scratch.path, "a"), { recursive: true });
  }
  expect(seen).toEqual(["a", "b", "d"]);
});

test("a walk out of a deep tree may pause on the way", () => {
  using scratch = scratchDirectory();
  mkdirSync(join(scratch.path, "d/".repeat(500)), { recursive: true });
  using root = new Descriptor(openSync(scratch.path, "r"));
  let since = 0;
  let most = 0;
  for (const found of walk(root)) {
    since = found === null ? 0 : since + 1;
    most = Math.max(most, since);
  }
  expect(most).toBeLessThan(3);
  // From the lowest: one for each level, and its own end.
  let trailing = 0;
  for (const found of walk(root)) trailing = found === null ? trailing + 1 : 0;
  expect(trailing).toBeGreaterThanOrEqual(500);
});

test("a tree of which nothing is left is passed over while others have their turns", async () => {
  using maker = snapshotMaker();
  const names = Array.from({ length: 40_000 }, (_, index) => `${index}`.padStart(200, "n"));
  const { ref } = await plant(
    maker.blobs,
    names.map((path) => ({ path, data: "" })),
  );
  writeFileSync(join(maker.live, "z"), "z");
  let turns = 0;
  const timer = setInterval(() => (turns += 1), 0);
  await maker.create({ base: ref });
  clearInterval(timer);
  expect(turns).toBeGreaterThan(10);
}, 120_000);
