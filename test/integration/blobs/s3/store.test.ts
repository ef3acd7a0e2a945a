import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { StaleVersion } from "../../../../src/blobs/store.ts";
import { failureOf } from "../../../fixtures/failure.ts";
import { s3Error, startFront } from "../../../fixtures/s3-front.ts";
import { startS3Server, type S3Server } from "../../../fixtures/s3-server.ts";
import { keysOf, storeAt } from "../../../fixtures/s3-store.ts";

let server: S3Server;
beforeAll(async () => {
  server = await startS3Server();
});
afterAll(async () => server[Symbol.asyncDispose]());

const bytes = (text: string) => Buffer.from(text);
/** A store of its own for each test, in the one bucket. */
const made = { count: 0 };
const fresh = (options: Parameters<typeof storeAt>[1] = {}) =>
  storeAt(server.endpoint, { prefix: `p${made.count++}/`, ...options });

test("what was put can be got, listed and deleted; what is not there is null", async () => {
  const { store } = fresh();
  await Promise.all(
    ["a/blobs/00/x", "a/blobs/01/y", "b/blobs/00/x"].map((key) => store.put(key, bytes(key))),
  );
  await store.put("a/blobs/00/x", bytes("a/blobs/00/x"));
  expect(Buffer.from((await store.get("a/blobs/01/y")) ?? [])).toEqual(bytes("a/blobs/01/y"));
  expect(await store.get("a/blobs/01/none")).toBeNull();
  expect(await store.read("a/head")).toBeNull();
  expect(await keysOf(store, "a/")).toEqual(["a/blobs/00/x", "a/blobs/01/y"]);
  expect(await keysOf(store, "a/blobs/01")).toEqual(["a/blobs/01/y"]);
  expect(await keysOf(store, "c/")).toEqual([]);
  const [object] = await Array.fromAsync(store.list("b/"));
  expect(object?.sizeBytes).toBe(12);
  expect(Math.abs(Date.now() - (object?.modifiedAt ?? 0))).toBeLessThan(60_000);
  await store.delete(["a/blobs/00/x", "a/blobs/00/none"]);
  expect(await keysOf(store, "")).toEqual(["a/blobs/01/y", "b/blobs/00/x"]);
});

test("an empty object, and one of all bytes, come back as they were", async () => {
  const { store } = fresh();
  const all = Uint8Array.from({ length: 4096 }, (_, index) => index % 256);
  for (const content of [new Uint8Array(), all]) {
    await store.put("a/x", content);
    expect(Buffer.from((await store.get("a/x")) ?? [1])).toEqual(Buffer.from(content));
  }
});

test("a key that is a path out, or of other characters, is refused", async () => {
  const { store } = fresh();
  for (const key of ["../x", "a/../x", "/etc/x", "a//b", "A", "a\0b", "a?acl", "a&lt;", ""]) {
    expect(await failureOf(store.put(key, bytes("x")))).toContain("no key of a blob store");
    expect(await failureOf(store.delete([key]))).toContain("no key of a blob store");
  }
});

test("two prefixes in one bucket see nothing of each other, and names of others' are left out", async () => {
  const [one, two] = [fresh(), fresh()];
  await one.store.put("a/x", bytes("one"));
  await two.store.put("a/x", bytes("two"));
  const raw = storeAt(server.endpoint, { prefix: `${one.client.bucket.prefix}NOT-Ours_` });
  await raw.store.put("x", bytes("theirs"));
  expect(await keysOf(one.store, "")).toEqual(["a/x"]);
  await one.store.delete(["a/x"]);
  expect(await keysOf(two.store, "")).toEqual(["a/x"]);
});

test("more than a thousand objects are listed and deleted, in several requests", async () => {
  const { client, store } = fresh();
  const keys = Array.from({ length: 1_234 }, (_, index) => `many/${String(index).padStart(5, "0")}`);
  // To the server a file is an object, and that is quicker.
  const directory = join(server.files, client.bucket.prefix);
  mkdirSync(join(directory, "many"), { recursive: true });
  for (const key of keys) writeFileSync(join(directory, key), "x");
  expect(await keysOf(store, "many/")).toEqual(keys);
  await store.delete(keys);
  expect(await keysOf(store, "")).toEqual([]);
});

describe("an object in parts", () => {
  const large = randomBytes(19 * 1024 * 1024 + 5);

  test("comes back whole", async () => {
    const { store } = fresh();
    await store.put("large/x", large);
    expect(large.equals(Buffer.from((await store.get("large/x")) ?? []))).toBeTrue();
    const [object] = await Array.fromAsync(store.list("large/"));
    expect(object?.sizeBytes).toBe(large.length);
  });

  test("that fails leaves neither an object nor parts", async () => {
    using front = startFront(server, (request, forward) =>
      request.url.includes("partNumber=2") ? s3Error(403, "AccessDenied") : forward(),
    );
    const { store } = storeAt(front.endpoint, { prefix: "parts/" });
    await failureOf(store.put("large/x", large));
    expect(front.seen.some(({ method }) => method === "DELETE")).toBeTrue();
    expect(await store.get("large/x")).toBeNull();
    const uploads = join(server.files, ".sgwtmp/multipart");
    expect(existsSync(uploads) ? readdirSync(uploads) : []).toEqual([]);
  });

  test("whose last answer is lost is a success when it is there, and else it isn't", async () => {
    const state = { done: true, asked: 0 };
    using front = startFront(server, async (request, forward) => {
      if (request.method !== "POST" || !request.url.includes("uploadId")) return forward();
      // As Amazon has it, which knows no upload that was completed.
      if (state.asked++ > 0) return s3Error(404, "NoSuchUpload");
      if (state.done) await forward();
      return s3Error(500, "InternalError");
    });
    const { store } = storeAt(front.endpoint, { prefix: "lost/" });
    await store.put("large/x", large);
    expect(large.equals(Buffer.from((await store.get("large/x")) ?? []))).toBeTrue();
    expect(state.asked).toBe(2);
    Object.assign(state, { done: false, asked: 0 });
    expect(await failureOf(store.put("large/y", large))).toContain(
      "The store of this appliance does not answer",
    );
    expect(await store.get("large/y")).toBeNull();
  });

  test("that fails only after the server has said 200 is tried again", async () => {
    const state = { asked: 0 };
    using front = startFront(server, (request, forward) => {
      const completes = request.method === "POST" && request.url.includes("uploadId");
      if (!completes || state.asked++ > 0) return forward();
      return s3Error(200, "InternalError");
    });
    const { store } = storeAt(front.endpoint, { prefix: "late/" });
    await store.put("large/x", large);
    expect(large.equals(Buffer.from((await store.get("large/x")) ?? []))).toBeTrue();
    expect(state.asked).toBe(2);
  });
});

describe("an object that changes", () => {
  test("is replaced only by who knows its version", async () => {
    const { store } = fresh();
    expect(await failureOf(store.replace("a/head", bytes("0"), '"none"'))).toContain("another version");
    const one = await store.replace("a/head", bytes("1"), null);
    expect(await failureOf(store.replace("a/head", bytes("2"), null))).toContain("another version");
    const two = await store.replace("a/head", bytes("2"), one);
    expect(await failureOf(store.replace("a/head", bytes("3"), one))).toContain("another version");
    const found = await store.read("a/head");
    expect([Buffer.from(found?.bytes ?? []).toString(), found?.tag]).toEqual(["2", two]);
    expect([await store.tag("a/head"), await store.tag("a/none")]).toEqual([two, null]);
  });

  test("has one winner of 32 that race, whether it is new or replaced", async () => {
    const { store } = fresh({ concurrency: 64 });
    let expected: string | null = null;
    for (const round of ["new", "again", "once-more"]) {
      const outcomes = await Promise.allSettled(
        Array.from({ length: 32 }, async (_, racer) =>
          store.replace("a/head", bytes(`${round} ${racer}`), expected),
        ),
      );
      const won = outcomes.flatMap((outcome, racer) =>
        outcome.status === "fulfilled" ? [{ tag: outcome.value, racer }] : [],
      );
      const lost = outcomes.flatMap((outcome) => (outcome.status === "rejected" ? [outcome.reason] : []));
      expect(won).toHaveLength(1);
      expect(lost.every((reason) => reason instanceof StaleVersion)).toBeTrue();
      const found = await store.read("a/head");
      expect(Buffer.from(found?.bytes ?? []).toString()).toBe(`${round} ${won[0]?.racer}`);
      expect(found?.tag).toBe(won[0]?.tag);
      expected = found?.tag ?? null;
    }
  });
});

test("encryption by the server is asked for with each object, and only when it is configured", async () => {
  using front = startFront(server);
  const asked = () =>
    front.seen
      .filter(
        ({ method, url }) =>
          method !== "GET" && !url.search.includes("artNumber") && !url.search.includes("uploadId"),
      )
      .map(({ headers }) => headers.get("x-amz-server-side-encryption"));
  for (const [sse, header] of [
    [true, "AES256"],
    [false, null],
  ] as const) {
    front.seen.length = 0;
    const { store } = storeAt(front.endpoint, { prefix: `sse-${sse}/`, sse });
    await store.put("a/x", bytes("x"));
    await store.put("a/large", new Uint8Array(9 * 1024 * 1024));
    await store.replace("a/head", bytes("1"), null);
    expect(asked()).toEqual([header, header, header]);
  }
});

test("no more requests are on their way at once than is allowed", async () => {
  const now = { running: 0, most: 0 };
  using front = startFront(server, async (_, forward) => {
    now.most = Math.max(now.most, ++now.running);
    try {
      return await forward();
    } finally {
      now.running--;
    }
  });
  const { store } = storeAt(front.endpoint, { prefix: "gate/", concurrency: 3 });
  await Promise.all(Array.from({ length: 40 }, async (_, index) => store.put(`a/${index}`, bytes("x"))));
  expect(await keysOf(store, "a/")).toHaveLength(40);
  expect(now.most).toBe(3);
});
