import { afterAll, expect, test } from "bun:test";
import {
  appendFileSync,
  chmodSync,
  closeSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import type { BlobStore } from "../../../src/blobs/store.ts";
import { bucketIn, contentsOf, startHost } from "../../fixtures/remote.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const scratch = scratchDirectory();
afterAll(() => scratch[Symbol.dispose]());
const place = () => bucketIn(scratch.path);

test("a host with nothing but the bucket has every acknowledged byte", async () => {
  const { store, on } = place();
  using first = startHost(on("one"), store);
  await first.write("a/b/c.txt", "hello");
  await first.write("a/d.txt", "there");
  await first.write("a/d.txt", "again");
  await first.exec((live) => {
    mkdirSync(join(live, "dir/empty"), { recursive: true });
    writeFileSync(join(live, "dir/big"), Buffer.alloc(9 * 1024 * 1024, "x"));
    writeFileSync(join(live, "dir/run"), "#!/bin/sh\n");
    chmodSync(join(live, "dir/run"), 0o755);
    symlinkSync("run", join(live, "dir/link"));
    linkSync(join(live, "dir/run"), join(live, "other name"));
    writeFileSync(join(live, "sparse"), "");
    truncateSync(join(live, "sparse"), 50_000_000);
  });
  await first.write("late", "after the command");
  await first.delete("a/b/c.txt");

  using second = startHost(on("two"), store, { id: first.id });
  const all = ["a", "a/b", "dir", "dir/empty", "dir/big", "dir/link", "dir/run"];
  expect((await second.list()).toSorted()).toEqual(
    [...all, "a/d.txt", "late", "other name", "sparse"].toSorted(),
  );
  expect(await second.read("a/d.txt")).toBe("again");
  expect(await second.read("late")).toBe("after the command");
  const { live } = second;
  expect(readFileSync(join(live, "dir/big")).equals(Buffer.alloc(9 * 1024 * 1024, "x"))).toBe(true);
  expect(readlinkSync(join(live, "dir/link"))).toBe("run");
  expect(statSync(join(live, "dir/run")).mode & 0o777).toBe(0o755);
  expect(statSync(join(live, "other name")).ino).toBe(statSync(join(live, "dir/run")).ino);
  expect(statSync(join(live, "sparse")).size).toBe(50_000_000);
  expect(statSync(join(live, "sparse")).blocks * 512).toBeLessThan(1_000_000);
});

test("a restart over the same directory fetches nothing", async () => {
  const { store, on } = place();
  const gets: string[] = [];
  const counting: BlobStore = {
    ...store,
    async get(key) {
      gets.push(key);
      return store.get(key);
    },
  };
  using host = startHost(on("one"), counting);
  await host.exec((live) => {
    for (let n = 0; n < 50; n++) writeFileSync(join(live, `f${n}`), `content ${n}`);
  });
  // Longer than clocks are mistrusted.
  await Bun.sleep(2_200);
  await host.exec((live) => writeFileSync(join(live, "one more"), "x"));
  const { ino } = statSync(host.live);
  gets.length = 0;
  host.restart();
  expect(await host.read("f7")).toBe("content 7");
  expect(statSync(host.live).ino).toBe(ino);
  // The manifest, and the one file that changed just before it was made.
  expect(gets.length).toBeLessThanOrEqual(3);
});

test("what was fetched is not fetched again at the next restart, holes or not", async () => {
  const { store, on } = place();
  using first = startHost(on("one"), store);
  await first.exec((live) => {
    const file = openSync(join(live, "sparse"), "w");
    ftruncateSync(file, 3e9);
    writeSync(file, "in the middle", 1e9);
    closeSync(file);
    writeFileSync(join(live, "whole"), "hello");
  });
  let versions = 0;
  using host = startHost(
    on("two"),
    { ...store, replace: async (...args) => (versions++, store.replace(...args)) },
    { id: first.id },
  );
  await host.list();
  expect(versions).toBe(2);
  host.restart();
  await host.list();
  // The claim, and no fetched list of files.
  expect(versions).toBe(3);
  const file = openSync(join(host.live, "sparse"), "r+");
  writeSync(file, "x", 2e9);
  closeSync(file);
  host.restart();
  await host.list();
  expect(versions).toBe(5);
});

test("what was changed or removed while the host was down is as it was", async () => {
  const { store, on } = place();
  using host = startHost(on("one"), store);
  await host.exec((live) => {
    mkdirSync(join(live, "d"));
    for (const name of ["a", "b", "d/c"]) writeFileSync(join(live, name), name);
  });
  const before = await contentsOf(host);
  const changes: ((live: string) => void)[] = [
    (live) => rmSync(live, { recursive: true }),
    (live) => rmSync(join(live, ".."), { recursive: true }),
    (live) => rmSync(join(live, "d/c")),
    (live) => writeFileSync(join(live, "a"), "z"),
    (live) => writeFileSync(join(live, "new"), "z"),
    (live) => symlinkSync("/etc/passwd", join(live, "0")),
    (live) => {
      rmSync(join(live, "b"));
      mkdirSync(join(live, "b"));
    },
  ];
  for (const change of changes) {
    change(host.live);
    host.restart();
    expect(await contentsOf(host)).toEqual(before);
  }
});

test("a directory that is removed while the host runs is fetched again", async () => {
  const { store, on } = place();
  using host = startHost(on("one"), store);
  await host.write("f", "one");
  rmSync(host.live, { recursive: true });
  expect(host.read("f")).rejects.toMatchObject({ code: "unavailable" });
  expect(await host.read("f")).toBe("one");
  rmSync(host.live, { recursive: true });
  expect(host.exec(() => {})).rejects.toMatchObject({ code: "unavailable" });
  await host.exec((live) => appendFileSync(join(live, "f"), " and two"));
  expect(await host.read("f")).toBe("one and two");
  expect(host.stopped).toEqual([host.id, host.id]);
});

test("files that were there before the bucket are taken into it", async () => {
  const { store, on } = place();
  using before = startHost(on("one"), store);
  await before.prepare();
  mkdirSync(join(before.live, "old"));
  writeFileSync(join(before.live, "old/file"), "from local mode");
  expect(await before.read("old/file")).toBe("from local mode");
  using other = startHost(on("two"), store, { id: before.id });
  expect(await other.read("old/file")).toBe("from local mode");
});

test("files that are to come from a backup are put into the bucket; what it has already counts for more", async () => {
  const { store, on } = place();
  const filling = () => {
    let pending = true;
    return {
      isPending: () => pending,
      build: async (_: unknown, root: { fd: number }) =>
        writeFileSync(`/proc/self/fd/${root.fd}/kept`, "from the backup"),
      done: async () => void (pending = false),
    };
  };
  using first = startHost(on("one"), store, { filling: filling() });
  expect(await first.read("kept")).toBe("from the backup");
  using second = startHost(on("two"), store, { id: first.id });
  expect(await contentsOf(second)).toEqual({ kept: "from the backup" });
  await second.write("kept", "later");
  using third = startHost(on("three"), store, { id: first.id, filling: filling() });
  expect(await contentsOf(third)).toEqual({ kept: "later" });
});
