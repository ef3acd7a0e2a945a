import { expect, test } from "bun:test";
import type { BlobId } from "../../../src/blobs/sealed.ts";
import { failureOf } from "../../fixtures/failure.ts";
import {
  createManifestWriter,
  createPath,
  decodeManifest,
  manifestRef,
  readHead,
  type Entry,
  type Head,
  type ManifestRef,
} from "../../../src/snapshots/manifest.ts";

const HEAD: Head = {
  started: 1_700_000_000_000,
  root: { mode: 0o755, mtime: [1_700_000_000, 7] },
  files: 2,
  bytes: 5,
  skipped: 1,
  repack: [],
};

function memoryBlobs() {
  const contents = new Map<BlobId, Uint8Array>();
  const id = (plain: Uint8Array) => new Bun.CryptoHasher("sha256").update(plain).digest("hex") as BlobId;
  return {
    contents,
    async put(plain: Uint8Array) {
      contents.set(id(plain), Uint8Array.from(plain));
      return { id: id(plain), storedBytes: plain.length };
    },
    async get(wanted: BlobId) {
      const found = contents.get(wanted);
      if (found === undefined) throw new Error(`there is no ${wanted}`);
      return found;
    },
  };
}

async function write(blobs: ReturnType<typeof memoryBlobs>, entries: Iterable<Entry>): Promise<ManifestRef> {
  const writer = createManifestWriter(blobs);
  for (const entry of entries) await writer.add(entry);
  return (await writer.finish(HEAD)).ref;
}

async function read(blobs: ReturnType<typeof memoryBlobs>, ref: ManifestRef): Promise<Entry[]> {
  const all: Entry[] = [];
  for await (const batch of decodeManifest(blobs, ref)) all.push(...batch);
  return all;
}

const name = (text: string) => Buffer.from(text);
const blob = "ab".repeat(32) as BlobId;

const EVERY_KIND: Entry[] = [
  { type: "dir", depth: 0, name: name("a"), mode: 0o2755, mtime: [-1, 999_999_999] },
  {
    type: "file",
    depth: 1,
    name: Buffer.from([0xff, 0x0a, 0xc0]),
    mode: 0o4600,
    mtime: [1, 2],
    size: 2 ** 43,
    data: [[0, blob, 5, 4096]],
    ctime: [3, 4],
    inode: 2 ** 53 - 1,
    hash: "abc",
    link: 0,
  },
  { type: "more", data: [[2 ** 42, blob, 0, 1]] },
  { type: "symlink", depth: 1, name: name("to\nfrom"), mtime: [5, 6], target: Buffer.from([0xfe, 0x2f]) },
  { type: "link", depth: 0, name: name("\uFEFFé😀"), first: 0 },
];

test("what is written is read again, names of any bytes too", async () => {
  const blobs = memoryBlobs();
  const ref = await write(blobs, EVERY_KIND);
  expect(manifestRef.parse(JSON.parse(JSON.stringify(ref)))).toEqual({ blobs: [...ref.blobs] });
  expect(await readHead(blobs, ref)).toEqual(HEAD);
  expect((await read(blobs, ref)).map(plain)).toEqual(EVERY_KIND.map(plain));
});

test("paths follow from the depths", () => {
  const path = createPath();
  expect(EVERY_KIND.map((entry) => path.of(entry).toString("latin1"))).toEqual([
    "a",
    "a/\xff\n\xc0",
    "a/\xff\n\xc0",
    "a/to\nfrom",
    name("\uFEFFé😀").toString("latin1"),
  ]);
});

test("of a long manifest with one entry more, most blobs are the same", async () => {
  const blobs = memoryBlobs();
  const file = (index: number): Entry => ({
    type: "file",
    depth: 0,
    name: name(`file-${String(index).padStart(6, "0")}`),
    mode: 0o644,
    mtime: [1_700_000_000, index],
    size: 1,
    data: [[0, blob, index, 1]],
    ctime: [1_700_000_000, index],
    inode: index,
  });
  const entries = Array.from({ length: 20_000 }, (_, index) => file(index));
  const one = await write(blobs, entries);
  const other = await write(blobs, entries.toSpliced(9_000, 1));
  expect(one.blobs.length).toBeGreaterThan(4);
  const shared = other.blobs.filter((id) => one.blobs.includes(id));
  expect(shared.length).toBeGreaterThanOrEqual(one.blobs.length - 2);
  expect((await read(blobs, other)).length).toBe(19_999);
});

test("no blob grows too large, whatever the names", async () => {
  const blobs = memoryBlobs();
  const entries = Array.from({ length: 9_000 }, (_, index): Entry => ({
    type: "dir",
    depth: index,
    // Never one that ends a blob by itself.
    name: Buffer.alloc(255, 0x80),
    mode: 0o755,
    mtime: [0, 0],
  }));
  const ref = await write(blobs, entries);
  expect(Math.max(...[...blobs.contents.values()].map(({ length }) => length))).toBeLessThan(4 * 1024 * 1024);
  expect((await read(blobs, ref)).length).toBe(9_000);
});

test.each<[string, object[]]>([
  ["a name with a slash", [{ dir: "a/b", at: 0, mode: 0, mtime: [0, 0] }]],
  ["the directory above", [{ dir: "..", at: 0, mode: 0, mtime: [0, 0] }]],
  ["no name", [{ dir: "", at: 0, mode: 0, mtime: [0, 0] }]],
  ["an entry in no directory", [{ dir: "a", at: 1, mode: 0, mtime: [0, 0] }]],
  [
    "an entry in a link",
    [
      { symlink: "a", at: 0, mtime: [0, 0], to: "/etc" },
      { dir: "b", at: 1, mode: 0, mtime: [0, 0] },
    ],
  ],
  ["data of no file", [{ more: [[0, blob, 0, 1]] }]],
  ["no known type", [{ fifo: "a" }]],
])("a manifest is refused for %s", async (_, lines) => {
  const blobs = memoryBlobs();
  const { id } = await blobs.put(Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join("")));
  expect(await failureOf(read(blobs, { blobs: [blob, id] }))).toContain("manifest is damaged");
});

function plain(entry: Entry) {
  return JSON.parse(
    JSON.stringify(entry, (_, value: unknown) => (value instanceof Uint8Array ? [...value] : value)),
  );
}
