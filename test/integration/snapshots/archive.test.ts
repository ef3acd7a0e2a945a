import { beforeAll, expect, test } from "bun:test";
import { chmodSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { constants } from "../../../src/kernel/openat2.ts";
import { tarOf } from "../../../src/snapshots/archive.ts";
import { buildTree } from "../../../src/snapshots/build.ts";
import { Descriptor } from "../../../src/volumes/descriptor.ts";
import { listingOf } from "../../fixtures/listing.ts";
import { memoryBlobs, plant, type Planted } from "../../fixtures/planted.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const MIB = 1024 * 1024;
const T = (seconds: number, nanoseconds = 0) => ({ mtime: [seconds, nanoseconds] as const });

async function archiveOf({ blobs, ref }: Parameters<typeof tarOf>[0]): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for await (const piece of tarOf({ blobs, ref })) {
    expect(piece.length).toBeLessThanOrEqual(4 * MIB);
    pieces.push(Uint8Array.from(piece));
  }
  return Buffer.concat(pieces);
}

const big = crypto.getRandomValues(Buffer.alloc(5 * MIB + 77));
const islands = Array.from({ length: 60 }, (_, n) => [n * MIB + 5000, big.subarray(n, n + 5000)] as const);
const TREE: Planted[] = [
  { path: "bad\xff\xfename", data: "bytes", ...T(1_600_000_000, 500_000_000) },
  {
    path: "big",
    data: [
      [0, big.subarray(0, 4 * MIB - 3)],
      [4 * MIB - 3, big.subarray(4 * MIB - 3)],
    ],
    ...T(2),
  },
  { path: "dir", mode: 0o750, ...T(3) },
  { path: "dir/empty", data: "", ...T(4) },
  { path: "dir/one", data: "1", link: 0, ...T(5, 1) },
  { path: "hole", data: islands, size: 70 * MIB, ...T(6) },
  { path: "island", data: [[MIB, Buffer.from("x")]], size: MIB + 1, ...T(6) },
  { path: "l".repeat(120), ...T(7) },
  { path: `${"l".repeat(120)}/${"m".repeat(200)}`, data: "in the depth", link: 1, ...T(8) },
  { path: "link-long", target: "t".repeat(3000), ...T(9) },
  { path: "link-out", target: "/etc/passwd", ...T(9) },
  { path: "nothing", data: [], size: 100 * MIB, ...T(10) },
  { path: "one again", first: 0 },
  { path: "setuid", data: "program", mode: 0o4751, ...T(-2, 500_000_000) },
  { path: "two again", first: 1 },
  { path: "u\xc3\xa9", data: "utf8", ...T(11) },
];

const PYTHON = `
import sys, tarfile
with tarfile.open(sys.argv[1], encoding="utf-8", errors="surrogateescape") as archive:
    archive.extractall(sys.argv[2])
`;

const scratch = scratchDirectory();
const seen = { archive: new Uint8Array() as Uint8Array, wanted: [] as string[] };

beforeAll(async () => {
  const { blobs } = memoryBlobs();
  const { ref } = await plant(blobs, TREE);
  seen.archive = await archiveOf({ blobs, ref });
  // What a restore would make is what an archive should, but for what only a tenant's own directory may have: setuid.
  const path = join(scratch.path, "wanted");
  mkdirSync(path);
  using root = new Descriptor(openSync(path, constants.O_RDONLY | constants.O_DIRECTORY));
  await buildTree({ blobs, ref }, root);
  chmodSync(join(path, "setuid"), 0o751);
  seen.wanted = listingOf(path, { blocks: true });
});

function unpack(before: string[], after: string[], to: string, archive = seen.archive) {
  mkdirSync(to);
  writeFileSync(`${to}.tar`, archive);
  const env = { ...process.env, LC_ALL: "C.UTF-8" };
  const done = Bun.spawnSync([...before, `${to}.tar`, ...after], { stderr: "pipe", env });
  expect({ said: done.stderr.toString(), code: done.exitCode }).toEqual({ said: "", code: 0 });
}

test("GNU tar unpacks it to the same tree", () => {
  const to = join(scratch.path, "gnu");
  unpack(["tar", "--warning=no-timestamp", "-xpf"], ["-C", to], to);
  expect(listingOf(join(to, "workspace"), { blocks: true })).toEqual(seen.wanted);
  expect(seen.wanted.filter((line) => line.endsWith(" sparse")).length).toBe(3);
});

test("Python's tarfile, which reads the format by code of its own, finds the same", () => {
  const to = join(scratch.path, "python");
  unpack(["python3", "-c", PYTHON], [to], to);
  // Its times are floating-point numbers, and a symlink gets none.
  const withoutTimes = (lines: string[]) => lines.map((line) => line.replace(/ -?\d{10,}/, ""));
  const found = listingOf(join(to, "workspace"), { blocks: true });
  expect(withoutTimes(found)).toEqual(withoutTimes(seen.wanted));
});

test("files of more than 8 GiB have their size", async () => {
  const { blobs } = memoryBlobs();
  const size = 20 * 1024 * MIB;
  const { ref } = await plant(blobs, [{ path: "huge", data: [[size - 5, Buffer.from("end.\n")]] }]);
  writeFileSync(join(scratch.path, "huge.tar"), await archiveOf({ blobs, ref }));
  const listed = Bun.spawnSync(["tar", "-tvf", join(scratch.path, "huge.tar")]).stdout.toString();
  expect(listed).toContain(` ${size} `);
});

test("what no archive can hold is left out, and the archive says so", async () => {
  const { blobs } = memoryBlobs();
  function* hostile(): Generator<Planted> {
    const path = (depth: number) => Array.from({ length: depth }, () => "d".repeat(250)).join("/");
    for (let depth = 1; depth <= 20; depth++) yield { path: path(depth) };
    yield { path: `${path(20)}/end`, data: "too deep", link: 0 };
    yield { path: "last", data: "last" };
    yield { path: "other name", first: 0 };
  }
  const { ref } = await plant(blobs, hostile());
  const to = join(scratch.path, "left");
  unpack(["tar", "--warning=no-timestamp", "-xpf"], ["-C", to], to, await archiveOf({ blobs, ref }));
  expect(readFileSync(join(to, "workspace/last"), "utf8")).toBe("last");
  const note = readFileSync(join(to, "LEFT-OUT.txt"), "utf8");
  expect(note.split("\n")[0]).toBe(
    "6 of the namespace's entries are not in this archive; restoring the snapshot brings them back.",
  );
  expect(note).toContain("d: its path is too long\n");
  expect(note).toContain("\nworkspace/other name: the file that it is another name of is not here\n");
});

test("a forged manifest leads neither an archive nor a restore out", async () => {
  const outside = join(scratch.path, "outside");
  mkdirSync(outside);
  const attacks: Record<string, Planted[]> = {
    "through a symlink": [
      { path: "link", target: outside },
      { path: "link/planted", data: "x" },
    ],
    "through a file": [
      { path: "file", data: "" },
      { path: "file/planted", data: "x" },
    ],
    "by a name that climbs": [{ path: "..", data: "x" }],
    "a directory that is the one above": [{ path: ".." }, { path: "../planted", data: "x" }],
    // The name of an entry is what stands behind the last slash here, so a slash comes by another way.
    "by a name with a NUL": [{ path: "a\0b", data: "x" }],
    control: [{ path: "link" }, { path: "link/planted", data: "x" }],
  };
  const seenIn = async (work: () => Promise<unknown>) =>
    work().then(
      () => "done",
      (error: unknown) => String(error),
    );
  for (const [name, planted] of Object.entries(attacks)) {
    const { blobs } = memoryBlobs();
    const { ref } = await plant(blobs, planted);
    const path = join(scratch.path, name);
    mkdirSync(path);
    using root = new Descriptor(openSync(path, constants.O_RDONLY | constants.O_DIRECTORY));
    const wanted = name === "control" ? /^done$/ : /manifest is damaged/;
    expect(await seenIn(async () => archiveOf({ blobs, ref })), name).toMatch(wanted);
    expect(await seenIn(async () => buildTree({ blobs, ref }, root)), name).toMatch(wanted);
  }
  expect(readdirSync(outside)).toEqual([]);
});

test("an archive of more than memory should hold goes by in pieces", async () => {
  const { blobs } = memoryBlobs();
  const piece = crypto.getRandomValues(Buffer.alloc(4 * MIB - 3));
  const pieces = Array.from({ length: 300 }, (_, n) => [n * piece.length, piece] as const);
  const { ref, bytes } = await plant(blobs, [{ path: "large", data: pieces }]);
  Bun.gc(true);
  const before = process.memoryUsage.rss();
  let [most, total] = [0, 0];
  for await (const part of tarOf({ blobs, ref })) {
    total += part.length;
    most = Math.max(most, process.memoryUsage.rss());
  }
  expect(total).toBeGreaterThan(bytes);
  console.log(
    `${Math.round(total / MIB)} MiB went by; memory grew by ${Math.round((most - before) / MIB)} MiB`,
  );
  expect(most - before).toBeLessThan(400 * MIB);
}, 120_000);

test("thousands of entries that lie too deep for an archive are passed over while others have their turns", async () => {
  const { blobs } = memoryBlobs();
  function* tree(): Generator<Planted> {
    const name = "d".repeat(250);
    let path = name;
    for (let depth = 0; depth < 400; depth++, path += `/${name}`) yield { path };
    for (let file = 0; file < 15_000; file++)
      yield { path: `${path.slice(0, -name.length)}${1000 + file}`, data: "" };
  }
  const { ref } = await plant(blobs, tree());
  // By setImmediate, as the work itself gives way: timers come less often then.
  let turns = 0;
  let handle = setImmediate(turn);
  function turn() {
    turns += 1;
    handle = setImmediate(turn);
  }
  const pieces = await Array.fromAsync(tarOf({ blobs, ref }));
  clearImmediate(handle);
  const note = /(\d+) of the namespace's entries are not in this archive/.exec(
    Buffer.concat(pieces).toString("latin1"),
  );
  expect(Number(note?.[1])).toBeGreaterThan(15_000);
  // In one go there would be one at most.
  expect(turns).toBeGreaterThan(3);
}, 120_000);
