import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { probeBucket } from "../../src/blobs/s3/probe.ts";
import { StaleVersion } from "../../src/blobs/store.ts";
import { amount } from "../fixtures/amount.ts";
import { failureOf } from "../fixtures/failure.ts";
import { startMinio } from "../fixtures/minio.ts";
import { startS3Server } from "../fixtures/s3-server.ts";
import { keysOf, storeAt } from "../fixtures/s3-store.ts";
import { startToxiproxy } from "../fixtures/toxiproxy.ts";

const bytes = (text: string) => Buffer.from(text);

describe("MinIO with a key of its own", () => {
  let minio: Awaited<ReturnType<typeof startMinio>>;
  beforeAll(async () => {
    minio = await startMinio({ kms: true });
  }, 90_000);
  afterAll(async () => minio[Symbol.asyncDispose]());

  test.each([true, false])("passes the probe (sse: %p), and one of 32 that race wins", async (sse) => {
    const { client, store } = storeAt(minio.endpoint, { prefix: `sse-${sse}/`, sse, concurrency: 64 });
    await probeBucket(client, store);
    const outcomes = await Promise.allSettled(
      Array.from({ length: 32 }, async (_, racer) => store.replace("a/head", bytes(String(racer)), null)),
    );
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect(
      outcomes.every((one) => one.status === "fulfilled" || one.reason instanceof StaleVersion),
    ).toBeTrue();
    const large = randomBytes(20 * 1024 * 1024);
    await store.put("a/large", large);
    expect(large.equals(Buffer.from((await store.get("a/large")) ?? []))).toBeTrue();
    await store.delete(["a/large", "a/head", "a/none"]);
    expect(await keysOf(store, "")).toEqual([]);
  });

  test("encrypts what it stores when it is asked to, and only then", async () => {
    const marks = { true: randomBytes(32).toString("hex"), false: randomBytes(32).toString("hex") };
    for (const sse of [true, false]) {
      const { client, store } = storeAt(minio.endpoint, { prefix: `mark-${sse}/`, sse });
      await store.put("a/x", bytes(marks[`${sse}`]));
      const { headers } = await client.send({ method: "GET", key: "a/x" });
      expect(headers.get("x-amz-server-side-encryption")).toBe(sse ? "AES256" : null);
      expect(Buffer.from((await store.get("a/x")) ?? []).toString()).toBe(marks[`${sse}`]);
    }
    const found = (mark: string) =>
      Bun.spawnSync(["grep", "-rlaF", mark, minio.files]).stdout.toString() !== "";
    expect({ true: found(marks.true), false: found(marks.false) }).toEqual({ true: false, false: true });
  });
});

test("MinIO without a key is refused when it shall encrypt, with what to do", async () => {
  await using minio = await startMinio({ kms: false });
  const { client, store } = storeAt(minio.endpoint, { sse: true });
  expect(await failureOf(probeBucket(client, store))).toContain(
    "it can't encrypt; give its server a key service, or put [storage] sse right",
  );
}, 90_000);

/** Seconds of each outage. */
const OUTAGE_S = amount("OUTAGE_S", 120);

test(
  "a bucket that comes back after minutes: who waits that long goes on, and nothing is lost or doubled",
  async () => {
    await using server = await startS3Server();
    await using toxiproxy = await startToxiproxy();
    const proxy = await toxiproxy.proxy(server.port);
    const patienceMs = (2 * OUTAGE_S + 60) * 1000;
    const { store } = storeAt(proxy.endpoint, { patienceMs });
    const one = await store.replace("a/head", bytes("1"), null);
    const outages = {
      refused: { begin: () => server.stop(), end: () => server.start() },
      hung: { begin: async () => server.hang(), end: async () => server.go() },
      cut: { begin: () => proxy.poison({ type: "limit_data", bytes: 0 }), end: () => proxy.heal() },
    };
    let tag = one;
    for (const [name, { begin, end }] of Object.entries(outages)) {
      await begin();
      const puts = Array.from({ length: 50 }, async (_, index) => store.put(`${name}/${index}`, bytes(name)));
      const replaced = store.replace("a/head", bytes(name), tag);
      await Bun.sleep(OUTAGE_S * 1000);
      await end();
      await Promise.all(puts);
      tag = await replaced;
      expect(await keysOf(store, `${name}/`)).toHaveLength(50);
      expect(await store.tag("a/head")).toBe(tag);
      expect(Buffer.from((await store.get("a/head")) ?? []).toString()).toBe(name);
    }
  },
  OUTAGE_S * 3_000 + 120_000,
);
