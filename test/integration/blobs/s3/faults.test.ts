import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { AppError } from "../../../../src/errors.ts";
import { StaleVersion } from "../../../../src/blobs/store.ts";
import { makeCertificate } from "../../../fixtures/certificate.ts";
import { failureOf } from "../../../fixtures/failure.ts";
import { s3Error, startFront } from "../../../fixtures/s3-front.ts";
import { startS3Server, type S3Server } from "../../../fixtures/s3-server.ts";
import { keysOf, storeAt } from "../../../fixtures/s3-store.ts";
import { startToxiproxy, type Proxy, type Toxiproxy } from "../../../fixtures/toxiproxy.ts";
import { until } from "../../../fixtures/until.ts";

let server: S3Server;
let toxiproxy: Toxiproxy;
let proxy: Proxy;
beforeAll(async () => {
  server = await startS3Server();
  toxiproxy = await startToxiproxy();
  proxy = await toxiproxy.proxy(server.port);
});
afterAll(async () => {
  await toxiproxy[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

const bytes = (text: string) => Buffer.from(text);
const large = randomBytes(3 * 1024 * 1024);

/** What a call fails with; its cause is for the operator. */
async function errorOf(call: Promise<unknown>): Promise<AppError> {
  const error = await call.then(
    () => null,
    (error: unknown) => error,
  );
  if (!(error instanceof AppError)) throw new Error(`no AppError: ${String(error)}`);
  return error;
}
const causeOf = async (call: Promise<unknown>) => ((await errorOf(call)).cause as Error).message;

describe("a network that", () => {
  test("is slow is waited for", async () => {
    const { store } = storeAt(proxy.endpoint, { prefix: "slow/" });
    await proxy.poison({ type: "latency", latency: 150, jitter: 50 });
    try {
      await store.put("a/x", large);
      expect(large.equals(Buffer.from((await store.get("a/x")) ?? []))).toBeTrue();
    } finally {
      await proxy.heal();
    }
  });

  test.each(["upstream", "downstream"] as const)(
    "cuts connections in the middle of a body (%s) loses nothing",
    async (stream) => {
      const { store } = storeAt(proxy.endpoint, { prefix: `cut-${stream}/` });
      if (stream === "downstream") await store.put("a/x", large);
      await proxy.poison({ type: "limit_data", bytes: 1_000_000 }, { stream });
      const call = stream === "upstream" ? store.put("a/x", large) : store.get("a/x");
      await Bun.sleep(250);
      await proxy.heal();
      await call;
      expect(large.equals(Buffer.from((await store.get("a/x")) ?? []))).toBeTrue();
    },
  );

  test("never stops cutting is told of, and what was cut is no object", async () => {
    const { store } = storeAt(proxy.endpoint, { prefix: "cut/", patienceMs: 700 });
    await proxy.poison({ type: "limit_data", bytes: 1_000_000 }, { stream: "upstream" });
    try {
      const error = await errorOf(store.put("a/x", large));
      expect([error.code, error.message, error.retryAfterS]).toEqual([
        "unavailable",
        "The store of this appliance does not answer; try again soon.",
        5,
      ]);
      expect((error.cause as Error).message).toContain(`Bucket test: ${proxy.endpoint} does not answer`);
    } finally {
      await proxy.heal();
    }
    expect(await store.get("a/x")).toBeNull();
  });

  test("loses answers never makes two winners of 32, nor none", async () => {
    const { store } = storeAt(proxy.endpoint, { prefix: "lossy/", concurrency: 64 });
    const direct = storeAt(server.endpoint, { prefix: "lossy/" }).store;
    // Not a byte of the answer gets through, on half of the connections: the request itself was done.
    await proxy.poison({ type: "limit_data", bytes: 0 }, { toxicity: 0.5 });
    try {
      let expected: string | null = null;
      for (const round of ["one", "two", "three"]) {
        const outcomes = await Promise.allSettled(
          Array.from({ length: 32 }, async (_, racer) =>
            store.replace("a/head", bytes(`${round} ${racer}`), expected),
          ),
        );
        const winners = outcomes.flatMap((outcome, racer) => (outcome.status === "fulfilled" ? [racer] : []));
        expect(winners).toHaveLength(1);
        expect(
          outcomes.every(({ status }, racer) => {
            const outcome = outcomes[racer];
            return (
              status === "fulfilled" || (outcome as PromiseRejectedResult).reason instanceof StaleVersion
            );
          }),
        ).toBeTrue();
        const found = await direct.read("a/head");
        expect(Buffer.from(found?.bytes ?? []).toString()).toBe(`${round} ${winners[0]}`);
        expected = found?.tag ?? null;
      }
    } finally {
      await proxy.heal();
    }
  });

  test("loses the one answer to a replacement that was done: it is found to be ours", async () => {
    const { store } = storeAt(proxy.endpoint, { prefix: "lost/" });
    await proxy.poison({ type: "limit_data", bytes: 0 });
    const call = store.replace("a/head", bytes("mine"), null);
    await until(() => existsSync(join(server.files, "lost/a/head")));
    await proxy.heal();
    expect(await call).toBe((await store.tag("a/head")) ?? "none");
  });
});

describe("a server that", () => {
  test("answers 503, 500 and 429 for a while is asked again, as often as it takes", async () => {
    const answers = [
      s3Error(503, "SlowDown"),
      s3Error(500, "InternalError"),
      s3Error(429, "TooManyRequests"),
    ];
    using front = startFront(server, (_, forward) => answers.shift() ?? forward());
    const { store } = storeAt(front.endpoint, { prefix: "busy/" });
    await store.put("a/x", bytes("x"));
    expect(front.seen).toHaveLength(4);
    answers.push(s3Error(503, "SlowDown"), s3Error(503, "SlowDown"));
    expect(await keysOf(store, "")).toEqual(["a/x"]);
  });

  test("answers 503 after it has replaced, or instead of it: the replacement is told of once, and right", async () => {
    const state = { done: true, answered: 0 };
    using front = startFront(server, async (request, forward) => {
      if (request.method !== "PUT" || state.answered++ > 0) return forward();
      if (state.done) await forward();
      return s3Error(503, "SlowDown");
    });
    const { store } = storeAt(front.endpoint, { prefix: "after/" });
    const one = await store.replace("a/head", bytes("1"), null);
    expect(one).toBe((await store.tag("a/head")) ?? "none");
    // Read, and not put again.
    expect(state.answered).toBe(1);
    Object.assign(state, { done: false, answered: 0 });
    const two = await store.replace("a/head", bytes("2"), one);
    expect(two).toBe((await store.tag("a/head")) ?? "none");
    expect(state.answered).toBe(2);
  });

  test("says Retry-After is left alone that long, or given up at once when that is too long", async () => {
    const answers = [s3Error(503, "SlowDown", { "retry-after": "1" })];
    using front = startFront(server, (_, forward) => answers.shift() ?? forward());
    const { store } = storeAt(front.endpoint, { prefix: "after/", patienceMs: 10_000 });
    const begun = performance.now();
    await store.put("a/x", bytes("x"));
    expect(performance.now() - begun).toBeGreaterThanOrEqual(999);
    front.seen.length = 0;
    answers.push(s3Error(503, "SlowDown", { "retry-after": "60" }));
    expect(await causeOf(store.put("a/x", bytes("x")))).toContain("can't answer now (503 SlowDown)");
    expect(front.seen).toHaveLength(1);
  });

  test.each([
    [507, "InsufficientStorage"],
    [403, "QuotaExceeded"],
    [507, "XMinioStorageFull"],
    [400, "XMinioAdminBucketQuotaExceeded"],
  ])("is full (%d %s) is not asked again, and callers get 507", async (status, code) => {
    using front = startFront(server, (request, forward) =>
      request.method === "PUT" ? s3Error(status, code) : forward(),
    );
    const { store } = storeAt(front.endpoint);
    for (const call of [
      () => store.put("a/x", bytes("x")),
      () => store.replace("a/head", bytes("x"), null),
    ]) {
      const error = await errorOf(call());
      expect([error.code, error.message]).toEqual([
        "no_space",
        "The store is full; delete something and try again.",
      ]);
      expect((error.cause as Error).message).toBe(
        `Bucket test is full (${status} ${code}); delete something or raise its quota.`,
      );
    }
    expect(front.seen).toHaveLength(2);
  });

  test.each([
    ["half of what it announced", "content-length: 200\r\n\r\n"],
    ["no end of its chunks", "transfer-encoding: chunked\r\n\r\n64\r\n"],
  ])("sends %s is not believed", async (_, head) => {
    using half = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        data(socket) {
          socket.end(`HTTP/1.1 200 OK\r\netag: "x"\r\nconnection: close\r\n${head}${"x".repeat(100)}`);
        },
      },
    });
    const { store } = storeAt(`http://127.0.0.1:${half.port}`, { patienceMs: 500 });
    expect(await causeOf(store.get("a/x"))).toContain("does not answer");
    expect(await causeOf(store.read("a/x"))).toContain("does not answer");
  });

  test("holds an object that looks like an error of S3's gives it back", async () => {
    const { store } = storeAt(server.endpoint, { prefix: "looks/" });
    const content = bytes("<Error><Code>SlowDown</Code></Error>");
    await store.put("a/x", content);
    expect(Buffer.from((await store.get("a/x")) ?? [])).toEqual(content);
  });

  test("fails many calls for one reason is in the log once, with what to do and without a key", async () => {
    const lines: unknown[] = [];
    const log = { error: (message: string, fields: unknown) => void lines.push([message, fields]) };
    const { store } = storeAt(server.endpoint, { name: "none", log });
    await Promise.allSettled(Array.from({ length: 10 }, async () => store.get("a/x")));
    expect(lines).toEqual([
      [
        "the bucket failed a call",
        {
          reason:
            "Bucket none: there is no such bucket; make it, or put [storage] bucket right (404 NoSuchBucket).",
        },
      ],
    ]);
  });

  test("can delete only some says which are left", async () => {
    using front = startFront(server, (request, forward) =>
      request.method === "POST"
        ? new Response("<DeleteResult><Error><Key>a/x</Key><Code>InternalError</Code></Error></DeleteResult>")
        : forward(),
    );
    const { store } = storeAt(front.endpoint);
    expect(await causeOf(store.delete(["a/x", "a/y"]))).toBe(
      "Bucket test: 1 objects could not be deleted (InternalError).",
    );
  });
});

describe("an outage", () => {
  test("that ends within our patience is not seen, and one that doesn't is told in time", async () => {
    await using other = await startS3Server();
    const { store } = storeAt(other.endpoint, { patienceMs: 60_000 });
    const impatient = storeAt(other.endpoint, { patienceMs: 400 }).store;
    await other.stop();
    const call = store.put("a/x", bytes("x"));
    expect(await causeOf(impatient.put("a/y", bytes("y")))).toContain("does not answer (ECONNREFUSED)");
    expect(await failureOf(impatient.get("a/x"))).toContain("The store of this appliance does not answer");
    await other.start();
    await call;
    expect(await keysOf(store, "")).toEqual(["a/x"]);
  });

  test("of a server that hangs is told in time, and what waits goes on when it ends", async () => {
    await using other = await startS3Server();
    const { store } = storeAt(other.endpoint, { patienceMs: 60_000 });
    await store.put("a/x", bytes("x"));
    other.hang();
    const impatient = storeAt(other.endpoint, { patienceMs: 400 }).store;
    expect(await causeOf(impatient.get("a/x"))).toContain("does not answer");
    const call = store.get("a/x");
    other.go();
    expect(Buffer.from((await call) ?? []).toString()).toBe("x");
  });
});

describe("what no patience heals is told at once, with what to do:", () => {
  test.each([
    [
      { secretKey: "wrong" },
      "the secret key is wrong; put the credentials right (403 SignatureDoesNotMatch).",
    ],
    [
      { accessKey: "nobody" },
      "nobody has this access key; put the credentials right (404 XAdminUserNotFound).",
    ],
    [{ name: "none" }, "there is no such bucket; make it, or put [storage] bucket right (404 NoSuchBucket)."],
    [
      { region: "eu-west-1" },
      'it is in region "us-east-1"; put [storage] region right (400 AuthorizationHeaderMalformed).',
    ],
  ])("%j", async (options, sentence) => {
    const { store } = storeAt(server.endpoint, options);
    const name = "name" in options ? options.name : "test";
    for (const call of [
      () => store.get("a/x"),
      () => store.put("a/x", bytes("x")),
      () => store.replace("a/head", bytes("x"), null),
      () => store.tag("a/head"),
      () => store.delete(["a/x"]),
      () => keysOf(store, "a/"),
    ]) {
      expect(await causeOf(call())).toBe(`Bucket ${name}: ${sentence}`);
    }
  });

  test("a certificate that nobody vouches for", async () => {
    const { cert, key } = makeCertificate("s3");
    using front = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      tls: { cert, key },
      fetch: () => new Response("in"),
    });
    const { store } = storeAt(`https://127.0.0.1:${front.port}`);
    expect(await causeOf(store.get("a/x"))).toContain("is not trusted here (DEPTH_ZERO_SELF_SIGNED_CERT)");
  });
});
