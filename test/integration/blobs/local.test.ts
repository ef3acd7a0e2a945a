import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createLocalStore, type LocalStore } from "../../../src/blobs/local.ts";
import { failureOf } from "../../fixtures/failure.ts";

let dir: string;
let store: LocalStore;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "cofferdam-blobs-"));
  store = createLocalStore(join(dir, "blobs"));
});
afterEach(() => rmSync(dir, { recursive: true }));

const bytes = (text: string) => Buffer.from(text);
async function keys(prefix: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of store.list(prefix)) found.push(key);
  return found.toSorted();
}

test("what was put can be got, listed and deleted; what is not there is null", async () => {
  await Promise.all(
    ["a/blobs/00/x", "a/blobs/01/y", "b/blobs/00/x"].map((key) => store.put(key, bytes(key))),
  );
  await store.put("a/blobs/00/x", bytes("a/blobs/00/x"));
  expect(await store.get("a/blobs/01/y")).toEqual(bytes("a/blobs/01/y"));
  expect(await store.get("a/blobs/01/none")).toBeNull();
  expect(await keys("a/")).toEqual(["a/blobs/00/x", "a/blobs/01/y"]);
  expect(await keys("a/blobs/01")).toEqual(["a/blobs/01/y"]);
  expect(await keys("c/")).toEqual([]);
  expect(statSync(join(dir, "blobs/a/blobs/00/x")).mode & 0o777).toBe(0o600);
  await store.delete(["a/blobs/00/x", "a/blobs/00/none"]);
  expect(await keys("")).toEqual(["a/blobs/01/y", "b/blobs/00/x"]);
});

test("a key that is a path out, or of other characters, is refused", async () => {
  for (const key of ["../x", "a/../x", "/etc/x", "a//b", "a/.new-1", "A", "a\0b", ""]) {
    expect(await failureOf(store.put(key, bytes("x")))).toContain("no key");
  }
  expect(readdirSync(dir)).toEqual([]);
});

test("of 32 that replace one version exactly one wins, and a stale one changes nothing", async () => {
  const first = await store.replace("n/head", bytes("0"), null);
  const races = Array.from({ length: 32 }, (_, n) => store.replace("n/head", bytes(`racer ${n}`), first));
  const won = (await Promise.allSettled(races)).flatMap((end, n) => (end.status === "fulfilled" ? [n] : []));
  expect(won).toHaveLength(1);
  const version = await store.read("n/head");
  expect(String(version?.bytes)).toBe(`racer ${won[0]}`);
  expect(await failureOf(store.replace("n/head", bytes("late"), first))).toContain("another version");
  expect(await failureOf(store.replace("n/head", bytes("late"), null))).toContain("another version");
  expect((await store.read("n/head"))?.tag).toBe(version?.tag ?? "");
});

test("the sweep takes what an unfinished put has left, and that is never listed", async () => {
  await store.put("a/blobs/00/x", bytes("x"));
  writeFileSync(join(dir, "blobs/a/blobs/00/.new-1-1"), "half");
  expect(await keys("")).toEqual(["a/blobs/00/x"]);
  await store.sweep();
  expect(readdirSync(join(dir, "blobs/a/blobs/00"))).toEqual(["x"]);
});

test("directories go with the last blob in them, and a put in that moment lands all the same", async () => {
  await store.put("a/blobs/00/x", bytes("x"));
  await store.put("b/blobs/00/x", bytes("x"));
  await store.delete(["a/blobs/00/x", "a/blobs/01/none"]);
  expect(readdirSync(join(dir, "blobs"))).toEqual(["b"]);
  const rounds = Array.from({ length: 40 }, (_, n) => n);
  await Promise.all(
    rounds.map(async (n) => {
      const [stays, goes] = [`c/blobs/${n % 3}0/stays${n}`, `c/blobs/${n % 3}0/goes${n}`];
      await store.put(goes, bytes("x"));
      await Promise.all([store.delete([goes]), store.put(stays, bytes(stays))]);
      expect(await store.get(stays)).toEqual(bytes(stays));
      if (n % 2 === 0) await store.delete([stays]);
    }),
  );
  expect((await keys("c/")).length).toBe(20);
});
