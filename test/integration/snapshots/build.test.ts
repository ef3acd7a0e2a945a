import { expect, test } from "bun:test";
import { lstatSync, mkdirSync, openSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { constants } from "../../../src/kernel/openat2.ts";
import { buildTree } from "../../../src/snapshots/build.ts";
import { Descriptor } from "../../../src/volumes/descriptor.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { listingOf } from "../../fixtures/listing.ts";
import { memoryBlobs, plant, type Planted } from "../../fixtures/planted.ts";
import { openDescriptors, scratchDirectory } from "../../fixtures/scratch.ts";

const MIB = 1024 * 1024;
const T = (seconds: number, nanoseconds = 0) => ({ mtime: [seconds, nanoseconds] as const });
const NS = (seconds: bigint, nanoseconds = 0n) => String(seconds * 1_000_000_000n + nanoseconds);

function emptyDirectory(path: string): Descriptor {
  mkdirSync(path);
  return new Descriptor(openSync(path, constants.O_RDONLY | constants.O_DIRECTORY));
}

async function built(planted: Iterable<Planted>, over: Parameters<typeof plant>[2] = {}) {
  const scratch = scratchDirectory();
  const { blobs } = memoryBlobs();
  const { ref } = await plant(blobs, planted, over);
  const path = join(scratch.path, "root");
  using root = emptyDirectory(path);
  const before = openDescriptors(path);
  const outcome = await buildTree({ blobs, ref }, root).catch((error: unknown) => error);
  expect(openDescriptors(path)).toBe(before);
  return { path, outcome, [Symbol.dispose]: () => scratch[Symbol.dispose]() };
}

test("all that a manifest can say is so on the disk", async () => {
  const big = crypto.getRandomValues(Buffer.alloc(60_000));
  using made = await built(
    [
      { path: "bad\xff\xfename", data: "bytes", mode: 0o4751, ...T(-2, 500_000_000) },
      { path: "closed", mode: 0o000, ...T(5) },
      { path: "closed/in", data: "hidden", mode: 0o000, ...T(6) },
      { path: "deep", mode: 0o2770, ...T(7) },
      { path: "deep/er", mode: 0o1777, ...T(8) },
      { path: "deep/er/one", data: "1", link: 0, ...T(9, 1) },
      { path: "empty", data: "", ...T(10) },
      { path: "empty dir", ...T(11) },
      {
        path: "hole",
        data: [
          [3 * MIB, big],
          [9 * MIB, big],
          [20 * MIB, Buffer.from("x")],
        ],
        size: 50 * MIB,
        ...T(12),
      },
      { path: "link-out", target: "/etc/passwd", ...T(13, 999_999_999) },
      { path: "link-up", target: "../../\xff", ...T(14) },
      { path: "nothing", data: [], size: 7 * MIB, ...T(15) },
      { path: "one again", first: 0 },
      {
        path: "pieces",
        data: Array.from({ length: 9 }, (_, n) => [n * 10_000, big.subarray(0, 10_000)] as const),
        ...T(16),
      },
    ],
    { mode: 0o700 },
  );
  expect(made.outcome).toEqual({ files: 8, bytes: 50 * MIB + 7 * MIB + 90_000 + 5 + 6 + 1 });
  const hash = (...parts: (Uint8Array | string | number)[]) => {
    const hasher = new Bun.CryptoHasher("sha256");
    for (const part of parts) hasher.update(typeof part === "number" ? Buffer.alloc(part) : part);
    return hasher.digest("hex").slice(0, 16);
  };
  const owner = "10000:10000";
  const holes = hash(3 * MIB, big, 6 * MIB - 60_000, big, 11 * MIB - 60_000, "x", 30 * MIB - 1);
  expect(listingOf(made.path, { blocks: true })).toEqual([
    `./ 700 ${owner} ${NS(1_600_000_000n, 5n)}`,
    `bad\xff\xfename 4751 ${owner} ${NS(-2n, 500_000_000n)} 5 ${hash("bytes")}`,
    `closed/ 0 ${owner} ${NS(5n)}`,
    `closed/in 0 ${owner} ${NS(6n)} 6 ${hash("hidden")}`,
    `deep/ 2770 ${owner} ${NS(7n)}`,
    `deep/er/ 1777 ${owner} ${NS(8n)}`,
    `deep/er/one 644 ${owner} ${NS(9n, 1n)} 1 ${hash("1")}`,
    `empty 644 ${owner} ${NS(10n)} 0 ${hash("")}`,
    `empty dir/ 755 ${owner} ${NS(11n)}`,
    `hole 644 ${owner} ${NS(12n)} ${50 * MIB} ${holes} sparse`,
    `link-out -> /etc/passwd ${owner} ${NS(13n, 999_999_999n)}`,
    `link-up -> ../../\xff ${owner} ${NS(14n)}`,
    `nothing 644 ${owner} ${NS(15n)} ${7 * MIB} ${hash(7 * MIB)} sparse`,
    "one again = deep/er/one",
    `pieces 644 ${owner} ${NS(16n)} 90000 ${hash(...Array.from({ length: 9 }, () => big.subarray(0, 10_000)))}`,
  ]);
});

test("it takes one descriptor for a tree of any depth", async () => {
  const levels = 300;
  const path = (depth: number) => Array.from({ length: depth }, () => "d".repeat(200)).join("/");
  function* deep(): Generator<Planted> {
    for (let depth = 1; depth <= levels; depth++) yield { path: path(depth), ...T(depth) };
    yield { path: `${path(levels)}/end`, data: "end" };
    yield { path: "last", data: "last" };
  }
  using made = await built(deep());
  expect(made.outcome).toEqual({ files: 2, bytes: 7 });
  expect(readdirSync(made.path).length).toBe(2);
  // The third level, as far as a path reaches without much ado.
  expect(lstatSync(join(made.path, path(3))).mtimeMs).toBe(3000);
  Bun.spawnSync(["rm", "-rf", made.path]);
});

test("a manifest that does not add up is refused, whatever is wrong with it", async () => {
  for (const [wrong, over] of [
    [
      [
        { path: "a", data: "1" },
        { path: "a", data: "2" },
      ],
    ],
    [
      [
        { path: "a", data: "1" },
        { path: "b", first: 0 },
      ],
    ],
    [[{ path: "a", data: [[5, Buffer.from("x")]], size: 3 }]],
    [[{ path: "a", data: "1" }], { files: 2 }],
    [[{ path: "a", data: "1" }], { bytes: 2 }],
  ] as [Planted[], Parameters<typeof plant>[2]?][]) {
    using made = await built(wrong, over);
    expect(String(made.outcome)).toContain("manifest is damaged");
  }
});

test("one damaged blob among many is the failure, by its name", async () => {
  const { blobs, objects } = memoryBlobs();
  const files = Array.from({ length: 300 }, (_, n) => ({
    path: `f${String(n).padStart(3, "0")}`,
    data: `content ${n}`,
  }));
  const { ref, blobsOf } = await plant(blobs, files);
  const [hurt] = blobsOf.get("f150") ?? [];
  if (hurt === undefined) throw new Error("no blob");
  for (const spoil of ["changed", "missing"]) {
    using scratch = scratchDirectory();
    using root = emptyDirectory(join(scratch.path, "root"));
    const key = blobs.keyOf(hurt);
    const bytes = Buffer.from(objects.get(key) ?? []);
    bytes[20]! ^= 1;
    if (spoil === "missing") objects.delete(key);
    else objects.set(key, bytes);
    const failed = await failureOf(buildTree({ blobs, ref }, root));
    expect(failed).toContain(`The blob ${hurt} is damaged`);
  }
});

test("a file with as many names as the file system allows comes back", async () => {
  // Of ext4; others allow more.
  const others = Array.from({ length: 64_999 }, (_, index) => ({ path: `n${index}`, first: 0 }));
  const sorted = others.toSorted((a, b) => (a.path < b.path ? -1 : 1));
  using made = await built([{ path: "a", data: "one", link: 0 }, ...sorted]);
  expect(made.outcome).toEqual({ files: 65_000, bytes: 3 });
  expect(lstatSync(join(made.path, "a")).nlink).toBe(65_000);
}, 60_000);
