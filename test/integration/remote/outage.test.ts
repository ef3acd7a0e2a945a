import { afterAll, expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { AppError } from "../../../src/errors.ts";
import { bucketIn, startHost, unreliable } from "../../fixtures/remote.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const scratch = scratchDirectory();
afterAll(() => scratch[Symbol.dispose]());
const place = () => bucketIn(scratch.path);

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
