import { afterAll, expect, test } from "bun:test";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bucketIn, lostToAnother, startHost, unreliable } from "../../fixtures/remote.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { until } from "../../fixtures/until.ts";

const scratch = scratchDirectory();
afterAll(() => scratch[Symbol.dispose]());
const place = () => bucketIn(scratch.path);

test("who lost a namespace answers nothing of it any more, and drops what it has", async () => {
  const { store, on } = place();
  using first = startHost(on("one"), store);
  await first.write("f", "one");
  using second = startHost(on("two"), store, { id: first.id });
  expect(await second.read("f")).toBe("one");
  await second.write("f", "two");
  expect(first.read("f")).rejects.toMatchObject(lostToAnother);
  expect(first.read("absent")).rejects.toMatchObject(lostToAnother);
  expect(first.list()).rejects.toMatchObject(lostToAnother);
  expect(first.write("f", "three")).rejects.toMatchObject(lostToAnother);
  expect(first.exec(() => {})).rejects.toMatchObject(lostToAnother);
  expect(first.delete("f")).rejects.toMatchObject(lostToAnother);
  await until(() => first.stopped.length > 0);
  expect(first.stopped).toEqual([first.id]);
  expect(existsSync(first.live) && readdirSync(first.live).length > 0).toBe(false);
  expect(await second.read("f")).toBe("two");
  // Only a restart takes it back, with what the other has written.
  first.restart();
  expect(await first.read("f")).toBe("two");
  expect(second.read("f")).rejects.toMatchObject(lostToAnother);
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
  expect(first.snapshot()).rejects.toMatchObject(lostToAnother);
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
  expect(first.write("g", "lost")).rejects.toMatchObject(lostToAnother);
  expect(await second.list()).toEqual(["f"]);
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
  expect(host.read("f")).rejects.toMatchObject(lostToAnother);
  expect(await other.read("f")).toBe("two");
});

test("nobody can commit to a namespace that is deleted", async () => {
  const { store, on } = place();
  using host = startHost(on("one"), store);
  await host.write("f", "one");
  using other = startHost(on("two"), store, { id: host.id });
  await other.write("f", "two");
  await other.remote.remove(host.id);
  for await (const { key } of store.list(`${host.id}/`)) expect(key).toStartWith(`${host.id}/blobs/`);
  expect(host.write("f", "three")).rejects.toMatchObject(lostToAnother);
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
