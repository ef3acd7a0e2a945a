import { afterAll, expect, test } from "bun:test";
import { chmodSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createSealedBlobs } from "../../../src/blobs/sealed.ts";
import { collect } from "../../../src/snapshots/gc.ts";
import { bucketIn, contentsOf, keyOf, lostToAnother, startHost } from "../../fixtures/remote.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const scratch = scratchDirectory();
afterAll(() => scratch[Symbol.dispose]());
const place = () => bucketIn(scratch.path);

test("a command that changes nothing writes nothing", async () => {
  const { store, on } = place();
  const puts: string[] = [];
  using host = startHost(on("one"), {
    ...store,
    put: async (key, bytes) => (puts.push(key), store.put(key, bytes)),
    replace: async (key, ...rest) => (puts.push(key), store.replace(key, ...rest)),
  });
  await host.exec((live) => {
    mkdirSync(join(live, "d"));
    writeFileSync(join(live, "d/by a command"), "x");
  });
  await host.write("d/e/by a call", "y");
  await host.write("empty", "");
  await host.write("large", Buffer.alloc(5 * 1024 * 1024, "z"));
  puts.length = 0;
  await host.exec(() => {});
  await host.exec((live) => statSync(live));
  expect(puts).toEqual([]);
  await host.exec((live) => chmodSync(join(live, "d"), 0o700));
  expect(puts).not.toEqual([]);
  await host.exec((live) => rmSync(join(live, "large")));
  using other = startHost(on("two"), store, { id: host.id });
  expect(Object.keys(await contentsOf(other)).toSorted()).toEqual(
    ["d", "d/by a command", "d/e", "d/e/by a call", "empty"].toSorted(),
  );
  expect(statSync(join(other.live, "d")).mode & 0o777).toBe(0o700);
});

test("moves by a command beside writes lose nothing", async () => {
  const { store, on } = place();
  using host = startHost(on("one"), store);
  await host.write("d0/keep", "kept");
  const over = { now: false };
  const moving = host.exec(async (live) => {
    for (let n = 0; !over.now; n++) {
      renameSync(join(live, `d${n}`), join(live, `d${n + 1}`));
      await Bun.sleep(1);
    }
  });
  const acknowledged: string[] = [];
  for (let n = 0; n < 40; n++) {
    await host.write(`w${n % 7}`, String(n));
    acknowledged[n % 7] = String(n);
  }
  over.now = true;
  await moving;
  using other = startHost(on("two"), store, { id: host.id });
  for (const [n, content] of acknowledged.entries()) expect(await other.read(`w${n}`)).toBe(content);
  const [kept] = (await other.list()).filter((path) => path.endsWith("/keep"));
  expect(await other.read(kept!)).toBe("kept");
});

test("a file whose directory a command moves away is found where it went", async () => {
  const { store, on } = place();
  using host = startHost(on("one"), store);
  await host.write("d/f", "one");
  const [moved, over] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const running = host.exec(async (live) => {
    renameSync(join(live, "d"), join(live, "e"));
    moved.resolve();
    await over.promise;
  });
  await moved.promise;
  // It makes d anew; and e/f, which the bucket knows as d/f, must not be lost by that before the command ends.
  await host.write("d/g", "two");
  await host.delete("d/g");
  using other = startHost(on("two"), store, { id: host.id });
  const all = await contentsOf(other);
  expect(all["d/f"] ?? all["e/f"]).toBe("one");
  over.resolve();
  expect(running).rejects.toMatchObject(lostToAnother);
});

test("concurrent writes and deletions of few paths end as the directory does", async () => {
  const { store, on } = place();
  using host = startHost(on("one"), store);
  await Promise.all(
    Array.from({ length: 120 }, async (_, n) => {
      const path = `d${n % 3}/f${n % 4}`;
      if (n % 5 === 0) await host.delete(path).catch(() => {});
      else await host.write(path, `${n} ${"x".repeat(n * 10)}`);
    }),
  );
  const here = await contentsOf(host);
  using other = startHost(on("two"), store, { id: host.id });
  expect(await contentsOf(other)).toEqual(here);
});

test("concurrent writes share their commits", async () => {
  const { store, on } = place();
  let commits = 0;
  using host = startHost(on("one"), {
    ...store,
    async replace(...args) {
      commits += 1;
      await Bun.sleep(5);
      return store.replace(...args);
    },
  });
  await host.write("first", "");
  commits = 0;
  await Promise.all(Array.from({ length: 60 }, async (_, n) => host.write(`f${n}`, String(n))));
  expect(commits).toBeLessThan(30);
  using other = startHost(on("two"), store, { id: host.id });
  expect(await other.list()).toHaveLength(61);
});

test("many changes become a manifest, and the head stays small", async () => {
  const { store, on } = place();
  const sizes: number[] = [];
  using host = startHost(on("one"), {
    ...store,
    async replace(key, bytes, expected) {
      sizes.push(bytes.length);
      return store.replace(key, bytes, expected);
    },
  });
  const name = (n: number) => `${"d".repeat(200)}/${"f".repeat(200)}${n}`;
  for (let n = 0; n < 400; n += 100) {
    await Promise.all(
      Array.from({ length: 100 }, async (_, more) => host.write(name(n + more), String(n + more))),
    );
  }
  expect(Math.max(...sizes)).toBeLessThan(256 * 1024);
  using other = startHost(on("two"), store, { id: host.id });
  expect(await other.read(name(307))).toBe("307");
  expect(readdirSync(join(other.live, "d".repeat(200)))).toHaveLength(400);
});

test("collection leaves what the head needs, and takes the rest", async () => {
  const { store, on } = place();
  using host = startHost(on("one"), store);
  await host.exec((live) => writeFileSync(join(live, "by a command"), "x"));
  for (let n = 0; n < 20; n++) await host.write("often", `content ${n}`);
  await host.write("once", "y");
  await host.write("large", Buffer.alloc(5 * 1024 * 1024, "z"));
  const collected = await host.remote.collecting(host.id, async ({ roots, until: before }) =>
    collect(
      { store, until: before, blobs: createSealedBlobs({ store, namespace: host.id, key: keyOf(host.id) }) },
      host.id,
      roots,
    ),
  );
  expect(collected?.blobs).toBeGreaterThanOrEqual(19);
  await host.write("after", "w");
  const here = await contentsOf(host);
  using other = startHost(on("two"), store, { id: host.id });
  expect(await contentsOf(other)).toEqual(here);
});
