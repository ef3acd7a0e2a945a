import { afterAll, expect, test } from "bun:test";
import {
  appendFileSync,
  chmodSync,
  closeSync,
  existsSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { createLocalStore } from "../../../src/blobs/local.ts";
import { createSealedBlobs } from "../../../src/blobs/sealed.ts";
import type { BlobStore } from "../../../src/blobs/store.ts";
import { AppError } from "../../../src/errors.ts";
import { collect } from "../../../src/snapshots/gc.ts";
import { keyOf, startHost, type Host } from "../../fixtures/remote.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { until } from "../../fixtures/until.ts";

const scratch = scratchDirectory();
afterAll(() => scratch[Symbol.dispose]());
let made = 0;

/** A bucket, and room for hosts beside it. */
function place() {
  const dir = join(scratch.path, `p${made++}`);
  mkdirSync(dir, { recursive: true });
  const store = createLocalStore(join(dir, "bucket"));
  return { store, on: (name: string) => join(dir, name) };
}

async function contents(of: Host): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const path of await of.list()) {
    found[path] = statSync(join(of.live, path)).isDirectory() ? "/" : await of.read(path);
  }
  return found;
}

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

const refused = {
  code: "unavailable",
  message: expect.stringContaining("Another host serves this namespace"),
};

test("who lost a namespace answers nothing of it any more, and drops what it has", async () => {
  const { store, on } = place();
  using first = startHost(on("one"), store);
  await first.write("f", "one");
  using second = startHost(on("two"), store, { id: first.id });
  expect(await second.read("f")).toBe("one");
  await second.write("f", "two");
  expect(first.read("f")).rejects.toMatchObject(refused);
  expect(first.read("absent")).rejects.toMatchObject(refused);
  expect(first.list()).rejects.toMatchObject(refused);
  expect(first.write("f", "three")).rejects.toMatchObject(refused);
  expect(first.exec(() => {})).rejects.toMatchObject(refused);
  expect(first.delete("f")).rejects.toMatchObject(refused);
  await until(() => first.stopped.length > 0);
  expect(first.stopped).toEqual([first.id]);
  expect(existsSync(first.live) && readdirSync(first.live).length > 0).toBe(false);
  expect(await second.read("f")).toBe("two");
  // Only a restart takes it back, with what the other has written.
  first.restart();
  expect(await first.read("f")).toBe("two");
  expect(second.read("f")).rejects.toMatchObject(refused);
});

test("a snapshot is of a namespace that is still this host's, with all that the bucket has", async () => {
  const { store, on } = place();
  const { away, failing } = unreliable(store);
  using first = startHost(on("one"), failing);
  await first.write("f", "one");
  expect(await first.snapshot()).toBe(1);
  using second = startHost(on("two"), store, { id: first.id });
  await second.write("g", "two");
  expect(await second.snapshot()).toBe(2);
  expect(first.snapshot()).rejects.toMatchObject(refused);
  using third = startHost(on("three"), failing);
  await third.write("f", "one");
  await third
    .exec((live) => {
      writeFileSync(join(live, "g"), "");
      away.now = true;
    })
    .catch(() => {});
  expect(third.snapshot()).rejects.toMatchObject({ message: "The bucket is away." });
});

test("a write that meets another host's claim is refused, and is nowhere", async () => {
  const { store, on } = place();
  using first = startHost(on("one"), store);
  await first.write("f", "one");
  using second = startHost(on("two"), store, { id: first.id });
  await second.read("f");
  expect(first.write("g", "lost")).rejects.toMatchObject(refused);
  expect(await second.list()).toEqual(["f"]);
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
  const before = await contents(host);
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
    expect(await contents(host)).toEqual(before);
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
  expect(Object.keys(await contents(other)).toSorted()).toEqual(
    ["d", "d/by a command", "d/e", "d/e/by a call", "empty"].toSorted(),
  );
  expect(statSync(join(other.live, "d")).mode & 0o777).toBe(0o700);
});

test("a namespace that was idle is the same, unless another host has it by then", async () => {
  const { store, on } = place();
  using host = startHost(on("one"), store);
  await host.write("f", "one");
  await host.idle();
  expect(await host.read("f")).toBe("one");
  await host.idle();
  using other = startHost(on("two"), store, { id: host.id });
  await other.write("f", "two");
  expect(host.read("f")).rejects.toMatchObject(refused);
  expect(await other.read("f")).toBe("two");
});

/** A store that can be told to be away. */
function unreliable(store: BlobStore) {
  const away = { now: false };
  const check = () => {
    if (away.now) throw new AppError("unavailable", "The bucket is away.", { retryAfterS: 1 });
  };
  const failing: BlobStore = {
    ...store,
    put: async (...args) => (check(), store.put(...args)),
    replace: async (...args) => (check(), store.replace(...args)),
    read: async (...args) => (check(), store.read(...args)),
    tag: async (...args) => (check(), store.tag(...args)),
  };
  return { away, failing };
}

test("what could not be committed is refused, stops all else, and goes along later", async () => {
  const { store, on } = place();
  const { away, failing } = unreliable(store);
  using host = startHost(on("one"), failing);
  await host.write("f", "one");
  const isAway = { message: "The bucket is away." };
  const failed = host.exec((live) => {
    writeFileSync(join(live, "g"), "by a command");
    away.now = true;
  });
  expect(failed).rejects.toMatchObject(isAway);
  expect(host.read("f")).rejects.toMatchObject(isAway);
  expect(host.write("h", "three")).rejects.toMatchObject(isAway);
  expect(host.delete("f")).rejects.toMatchObject(isAway);
  expect(host.exec(() => {})).rejects.toMatchObject(isAway);
  away.now = false;
  expect(await host.list()).toEqual(["f", "g"]);
  using other = startHost(on("two"), store, { id: host.id });
  expect(await other.list()).toEqual(["f", "g"]);
});

test("blobs that arrived without their head are no change, after a crash", async () => {
  const { store, on } = place();
  const broken = { now: false };
  using host = startHost(on("one"), {
    ...store,
    async replace(...args) {
      if (broken.now) throw new AppError("unavailable", "The connection was cut.");
      return store.replace(...args);
    },
  });
  await host.write("f", "one");
  broken.now = true;
  expect(host.write("f", "two")).rejects.toMatchObject({ code: "unavailable" });
  broken.now = false;
  host.restart();
  expect(await host.read("f")).toBe("one");
});

test("a head whose answer was lost is the change, and is made once", async () => {
  const { store, on } = place();
  const broken = { now: false };
  const versions: string[] = [];
  using host = startHost(on("one"), {
    ...store,
    async replace(...args) {
      const tag = await store.replace(...args);
      versions.push(tag);
      if (broken.now) throw new AppError("unavailable", "The connection was cut.");
      return tag;
    },
  });
  await host.write("f", "one");
  broken.now = true;
  const before = versions.length;
  await host.write("f", "two");
  expect(versions).toHaveLength(before + 1);
  using other = startHost(on("two"), store, { id: host.id });
  expect(await other.read("f")).toBe("two");
});

test("a change that was refused, and arrived all the same, undoes none that was acknowledged later", async () => {
  const { store, on } = place();
  const cut = { now: false };
  const late: (() => Promise<unknown>)[] = [];
  for (const arrives of ["at once", "late"]) {
    using host = startHost(on(arrives), {
      ...store,
      async read(key) {
        if (cut.now) throw new AppError("unavailable", "The bucket is away.");
        return store.read(key);
      },
      async replace(...args) {
        if (!cut.now) return store.replace(...args);
        if (arrives === "at once") await store.replace(...args);
        else late.push(async () => store.replace(...args).catch(() => {}));
        throw new AppError("unavailable", "The connection was cut.");
      },
    });
    await host.write("f", "one");
    await host.exec(async (live) => {
      cut.now = true;
      expect(host.write("g", "two")).rejects.toMatchObject({ code: "unavailable" });
      cut.now = false;
      rmSync(join(live, "g"));
    });
    for (const arrive of late) await arrive();
    host.restart();
    expect(await host.list()).toEqual(["f"]);
  }
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
  const moved = Promise.withResolvers<void>();
  const running = host.exec(async (live) => {
    renameSync(join(live, "d"), join(live, "e"));
    await moved.promise;
  });
  await Bun.sleep(5);
  // It makes d anew; and e/f, which the bucket knows as d/f, must not be lost by that before the command ends.
  await host.write("d/g", "two");
  await host.delete("d/g");
  using other = startHost(on("two"), store, { id: host.id });
  const all = await contents(other);
  expect(all["d/f"] ?? all["e/f"]).toBe("one");
  moved.resolve();
  expect(running).rejects.toMatchObject(refused);
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
  const here = await contents(host);
  using other = startHost(on("two"), store, { id: host.id });
  expect(await contents(other)).toEqual(here);
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

test("a bucket that lacks what it had is not taken for an empty one", async () => {
  const { store, on } = place();
  using host = startHost(on("one"), store);
  await host.write("f", "one");
  using empty = startHost(on("two"), createLocalStore(on("another bucket")), { id: host.id });
  const gone = { code: "internal", message: expect.stringContaining("has them no more") };
  expect(empty.list()).rejects.toMatchObject(gone);
  expect(empty.write("f", "two")).rejects.toMatchObject(gone);
  // Nor is the copy on the disk taken into it.
  await store.delete([`${host.id}/head`]);
  host.restart();
  expect(host.list()).rejects.toMatchObject(gone);
});

test("who sets a head back is overruled while it is in use, and told of when that was before the last claim", async () => {
  const { store, on } = place();
  using host = startHost(on("one"), store);
  const key = `${host.id}/head`;
  async function setBack(to: Uint8Array) {
    await store.replace(key, to, (await store.read(key))!.tag);
  }
  await host.write("f", "one");
  const { bytes: early } = (await store.read(key))!;
  await host.write("f", "two");
  await setBack(early);
  expect(await host.read("f")).toBe("two");
  host.restart();
  expect(await host.read("f")).toBe("two");
  expect(host.errors).toEqual([]);
  await setBack(early);
  expect(host.read("f")).rejects.toMatchObject(refused);
  host.restart();
  expect(await host.read("f")).toBe("one");
  expect(host.errors).toEqual([expect.stringContaining("has gone back to an older state")]);
});

test("a head that is another namespace's, or no head, is refused and left as it is", async () => {
  const { store, on } = place();
  using host = startHost(on("one"), store);
  using other = startHost(on("two"), store);
  await host.write("f", "one");
  await other.write("f", "the other");
  const key = `${host.id}/head`;
  for (const bytes of [
    (await store.read(`${other.id}/head`))!.bytes,
    Buffer.from("garbage"),
    Buffer.alloc(0),
  ]) {
    const { bytes: good, tag } = (await store.read(key))!;
    const bad = await store.replace(key, bytes, tag);
    const damaged = { code: "internal", message: `The bucket's ${key} is damaged.` };
    expect(host.read("f")).rejects.toMatchObject(damaged);
    host.restart();
    expect(host.read("f")).rejects.toMatchObject(damaged);
    expect(host.write("f", "two")).rejects.toMatchObject(damaged);
    expect((await store.read(key))!.bytes).toEqual(bytes);
    await store.replace(key, good, bad);
    expect(await host.read("f")).toBe("one");
  }
});

test("nobody can commit to a namespace that is deleted", async () => {
  const { store, on } = place();
  using host = startHost(on("one"), store);
  await host.write("f", "one");
  using other = startHost(on("two"), store, { id: host.id });
  await other.write("f", "two");
  await other.remote.remove(host.id);
  for await (const { key } of store.list(`${host.id}/`)) expect(key).toStartWith(`${host.id}/blobs/`);
  expect(host.write("f", "three")).rejects.toMatchObject(refused);
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
  const here = await contents(host);
  using other = startHost(on("two"), store, { id: host.id });
  expect(await contents(other)).toEqual(here);
});

test("who claims a namespace waits until blobs are no longer deleted under another's claim", async () => {
  const { store, on } = place();
  using host = startHost(on("one"), store);
  await host.write("f", "one");
  using other = startHost(on("two"), store, { id: host.id });
  const order: string[] = [];
  let reading: Promise<unknown> = Promise.resolve();
  await host.remote.collecting(host.id, async () => {
    reading = other.read("f").then(() => order.push("read"));
    await Bun.sleep(300);
    order.push("collected");
  });
  await reading;
  expect(order).toEqual(["collected", "read"]);
  // Who has lost it, or never had it, has no say.
  expect(await host.remote.collecting(host.id, async () => "collected").catch(() => "refused")).toBe(
    "refused",
  );
  using third = startHost(on("three"), store, { id: host.id });
  expect(await third.remote.collecting(host.id, async () => "collected")).toBeNull();
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
  expect(await contents(second)).toEqual({ kept: "from the backup" });
  await second.write("kept", "later");
  using third = startHost(on("three"), store, { id: first.id, filling: filling() });
  expect(await contents(third)).toEqual({ kept: "later" });
});
