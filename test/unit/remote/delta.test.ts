import { expect, test } from "bun:test";
import { decodeDelta, encodeDelta, fold, merged, pathKey, type Change } from "../../../src/remote/delta.ts";
import type { BlobId } from "../../../src/blobs/sealed.ts";
import type { DirectoryEntry, Entry, FileEntry } from "../../../src/snapshots/manifest.ts";

const bytes = (text: string) => Buffer.from(text, "latin1");
const key = (path: string) => pathKey(path.split("/").map(bytes));

function file(depth: number, name: string, size: number, link?: number): FileEntry {
  const data = [[0, "b".repeat(64) as BlobId, 0, size]] as const;
  const rest = { mode: 0o644, mtime: [1, 2], size, data, ctime: [3, 4], inode: size } as const;
  return { type: "file", depth, name: bytes(name), ...rest, ...(link !== undefined && { link }) };
}

function dir(depth: number, name: string): DirectoryEntry {
  return { type: "dir", depth, name: bytes(name), mode: 0o755, mtime: [1, 2] };
}

async function* batches(entries: readonly Entry[], size = 2) {
  for (let at = 0; at < entries.length; at += size) yield entries.slice(at, at + size);
}

async function mergedText(base: readonly Entry[], changes: Record<string, Change>): Promise<string[]> {
  const delta = new Map(Object.entries(changes).map(([path, change]) => [key(path), change]));
  const out: string[] = [];
  for await (const batch of merged(batches(base), delta)) {
    for (const entry of batch) out.push(entry.type === "more" ? "more" : text(entry));
  }
  return out;
}

function text(entry: Exclude<Entry, { type: "more" }>): string {
  const size = entry.type === "file" ? ` ${entry.size}` : "";
  return `${" ".repeat(entry.depth)}${entry.type} ${Buffer.from(entry.name).toString("latin1")}${size}`;
}

test("changes take their place in the order of the names' bytes", async () => {
  const base = [dir(0, "a"), file(1, "x", 1), file(0, "a!", 2), file(0, "b", 3)];
  expect(
    await mergedText(base, {
      "a/y": file(1, "y", 9),
      "a/x": null,
      "a b": file(0, "a b", 8),
      b: file(0, "b", 7),
      z: dir(0, "z"),
      "z/\xff": file(1, "\xff", 6),
    }),
  ).toEqual(["dir a", " file y 9", "file a b 8", "file a! 2", "file b 7", "dir z", " file \xff 6"]);
});

test("what was in a directory that became a file is gone, and nothing beside it", async () => {
  const base = [dir(0, "a"), dir(1, "b"), file(2, "x", 1), file(1, "c", 2), file(0, "d", 3)];
  expect(await mergedText(base, { a: file(0, "a", 9) })).toEqual(["file a 9", "file d 3"]);
  expect(await mergedText(base, { "a/b": null })).toEqual(["dir a", " file c 2", "file d 3"]);
  expect(await mergedText(base, { a: dir(0, "a") })).toEqual(await mergedText(base, {}));
});

test("a file whose first name went keeps its data under the next one", async () => {
  const more: Entry = { type: "more", data: [[4, "c".repeat(64) as BlobId, 0, 1]] };
  const link = (name: string): Entry => ({ type: "link", depth: 0, name: bytes(name), first: 5 });
  const base = [file(0, "a", 1, 5), more, link("b"), link("c")];
  expect(await mergedText(base, { a: null })).toEqual(["file b 1", "more", "link c"]);
  expect(await mergedText(base, { a: file(0, "a", 2), b: null })).toEqual(["file a 2", "file c 1", "more"]);
});

test("a later change replaces an earlier one, and what was beneath it", () => {
  const first = new Map<ReturnType<typeof key>, Change>([
    [key("a"), dir(0, "a")],
    [key("a/x"), file(1, "x", 1)],
    [key("a!"), file(0, "a!", 2)],
  ]);
  const folded = fold(first, new Map([[key("a"), file(0, "a", 3)]]))!;
  expect([...folded.keys()]).toEqual([key("a"), key("a!")]);
  expect(decodeDelta(JSON.parse(JSON.stringify(encodeDelta(folded))))).toEqual(new Map(folded));
});

test("a directory in place of what took a directory's place can't be said", () => {
  const delta = new Map<ReturnType<typeof key>, Change>([[key("a"), null]]);
  expect(fold(delta, new Map([[key("a"), dir(0, "a")]]))).toBeNull();
  expect(fold(delta, new Map([[key("a"), file(0, "a", 1)]]))).not.toBeNull();
});

test("merging a random delta is the same as changing a tree by hand", async () => {
  const names = ["a", "a!", "b", "\xe9", "-"];
  const pick = () => names[Math.floor(Math.random() * names.length)]!;
  for (let round = 0; round < 300; round++) {
    const tree = new Map<string, Change>();
    const put = (into: Map<string, Change>, path: string, size: number) => {
      const parts = path.split("/");
      for (let up = 1; up < parts.length; up++) {
        const above = parts.slice(0, up).join("/");
        if (into.get(above)?.type === "dir") continue;
        into.set(above, dir(up - 1, parts[up - 1]!));
      }
      for (const other of into.keys()) if (other.startsWith(`${path}/`)) into.delete(other);
      into.set(path, file(parts.length - 1, parts.at(-1)!, size));
    };
    const path = () => Array.from({ length: 1 + Math.floor(Math.random() * 3) }, pick).join("/");
    for (let at = 0; at < 12; at++) put(tree, path(), at);
    const asEntries = (from: Map<string, Change>) =>
      [...from].sort(([a], [b]) => (key(a) < key(b) ? -1 : 1)).flatMap(([, entry]) => entry ?? []);
    const base = asEntries(tree);
    let delta: ReadonlyMap<ReturnType<typeof key>, Change> = new Map();
    for (let at = 0; at < 6; at++) {
      const target = path();
      const change = new Map<string, Change>();
      const before = new Map(tree);
      if (Math.random() < 0.3) {
        // As a removal of a file: the directory it was in stays.
        if (tree.get(target)?.type === "dir") continue;
        tree.delete(target);
        change.set(target, null);
      } else {
        put(tree, target, 100 + at);
        put(change, target, 100 + at);
      }
      const folded = fold(delta, new Map([...change].map(([to, entry]) => [key(to), entry])));
      if (folded !== null) delta = folded;
      else {
        tree.clear();
        for (const [to, entry] of before) tree.set(to, entry);
      }
    }
    const out: Entry[] = [];
    for await (const batch of merged(batches(base, 3), delta)) out.push(...batch);
    expect(out).toEqual(asEntries(tree));
  }
});
