import { afterAll, expect, test } from "bun:test";
import { createLocalStore } from "../../../src/blobs/local.ts";
import { bucketIn, lostToAnother, startHost } from "../../fixtures/remote.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const scratch = scratchDirectory();
afterAll(() => scratch[Symbol.dispose]());
const place = () => bucketIn(scratch.path);

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
  expect(host.read("f")).rejects.toMatchObject(lostToAnother);
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
