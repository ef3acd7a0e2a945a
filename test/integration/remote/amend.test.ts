import { afterAll, expect, test } from "bun:test";
import type { BlobStore } from "../../../src/blobs/store.ts";
import { bucketIn, startHost, type Host } from "../../fixtures/remote.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const scratch = scratchDirectory();
afterAll(() => scratch[Symbol.dispose]());

/** A bucket whose heads are counted, and can't be written while it is `broken`. */
function place() {
  const { store: inner, on } = bucketIn(scratch.path);
  const heads = { written: 0, broken: false };
  const store: BlobStore = {
    ...inner,
    async replace(key, ...rest) {
      if (heads.broken) throw new Error("the bucket takes no head");
      heads.written += 1;
      return inner.replace(key, ...rest);
    },
  };
  return { inner, store, heads, on };
}

async function contents(of: Host): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const path of await of.list()) found[path] = await of.read(path);
  return found;
}

const BEFORE = { a: "one", b: "two", c: "three" };
const CHANGES = { a: "changed", b: null, d: "new" };
const AFTER = { a: "changed", c: "three", d: "new" };

async function begun(of: Host): Promise<void> {
  for (const [path, content] of Object.entries(BEFORE)) await of.write(path, content);
}

test("many changes at once are in the bucket when they are acknowledged, for whoever claims it next", async () => {
  const { store, on } = place();
  using one = startHost(on("one"), store);
  await begun(one);
  await one.amend(CHANGES);
  expect(await contents(one)).toEqual(AFTER);
  using two = startHost(on("two"), store, { id: one.id });
  expect(await contents(two)).toEqual(AFTER);
});

test("those that the bucket does not take are refused; and gone, all of them, after a crash", async () => {
  const { store, heads, on } = place();
  const dir = on("one");
  const host = crypto.randomUUID();
  const one = startHost(dir, store, { host });
  await begun(one);
  heads.broken = true;
  const refused = await one.amend(CHANGES).catch((error: unknown) => String(error));
  expect(refused).toContain("The bucket does not answer");
  heads.broken = false;
  one.restart();
  expect(await contents(one)).toEqual(BEFORE);
  // The same again, and now it works.
  await one.amend(CHANGES);
  one.restart();
  expect(await contents(one)).toEqual(AFTER);
  one[Symbol.dispose]();
});

test("nobody commits while they are made: a head never names a half", async () => {
  const { store, heads, on } = place();
  using one = startHost(on("one"), store);
  await begun(one);
  const seen = { before: 0, during: 0 };
  const commits: Promise<void>[] = [];
  await one.amend(CHANGES, async () => {
    seen.before = heads.written;
    // Commands that end just now, with something to commit.
    commits.push(one.remote.commit(one.id), one.remote.commit(one.id));
    await Bun.sleep(50);
    seen.during = heads.written;
  });
  await Promise.all(commits);
  expect(seen.during).toBe(seen.before);
  // A positive control: they are written otherwise.
  expect(heads.written).toBeGreaterThan(seen.before);
});
