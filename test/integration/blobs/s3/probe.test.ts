import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { probeBucket, reachBucket } from "../../../../src/blobs/s3/probe.ts";
import { failureOf } from "../../../fixtures/failure.ts";
import { s3Error, startFront } from "../../../fixtures/s3-front.ts";
import { startS3Server, type S3Server } from "../../../fixtures/s3-server.ts";
import { keysOf, storeAt } from "../../../fixtures/s3-store.ts";

let server: S3Server;
beforeAll(async () => {
  server = await startS3Server();
});
afterAll(async () => server[Symbol.asyncDispose]());

const probe = async (endpoint: string, options: Parameters<typeof storeAt>[1] = {}) => {
  const { client, store } = storeAt(endpoint, options);
  await probeBucket(client, store);
  return store;
};

test("a good bucket passes, and nothing is left in it", async () => {
  const store = await probe(server.endpoint, { prefix: "good/" });
  expect(await keysOf(store, "")).toEqual([]);
});

test("what an interrupted probe left is taken away, once it is old", async () => {
  const directory = join(server.files, "left/probe");
  mkdirSync(directory, { recursive: true });
  for (const name of ["old", "new"]) writeFileSync(join(directory, name), "");
  utimesSync(join(directory, "old"), 1, Date.now() / 1000 - 7200);
  const store = await probe(server.endpoint, { prefix: "left/" });
  expect(await keysOf(store, "")).toEqual(["probe/new"]);
});

test("a server that ignores conditions is refused", async () => {
  using front = startFront(server, async (request, forward) => {
    if (request.method !== "PUT") return forward();
    const answer = await forward();
    if (answer.status !== 412) return answer;
    // As those do that ignore them: it takes the object, and says so.
    const { store } = storeAt(server.endpoint);
    const key = new URL(request.url).pathname.replace("/test/", "");
    await store.put(key, new Uint8Array(await new Response(`ignored ${key}`).arrayBuffer()));
    return new Response(null, { headers: { etag: '"ignored"' } });
  });
  expect(await failureOf(probe(front.endpoint))).toBe(
    "Bucket test cannot be used: it ignores If-Match and If-None-Match, so that two hosts could undo each other's writes.",
  );
  expect(await keysOf(storeAt(server.endpoint).store, "probe/")).toEqual([]);
});

test("one that honours only one of the conditions is refused", async () => {
  using front = startFront(server, async (request, forward) => {
    const answer = await forward();
    return answer.status === 412 && request.headers.has("if-match")
      ? new Response(null, { headers: { etag: '"ignored"' } })
      : answer;
  });
  expect(await failureOf(probe(front.endpoint))).toContain("it ignores If-Match and If-None-Match");
});

test.each([
  ["gives back something else", "GET", "it does not give back what it was given just before"],
  ["keeps what was deleted", "POST", "it keeps what was deleted"],
])("one that %s is refused", async (_, broken, sentence) => {
  using front = startFront(server, async (request, forward) => {
    if (request.method !== broken || (broken === "GET" && request.url.includes("list-type")))
      return forward();
    return broken === "GET"
      ? new Response("else", { headers: { etag: '"x"' } })
      : new Response("<DeleteResult/>");
  });
  expect(await failureOf(probe(front.endpoint, { prefix: `${broken.toLowerCase()}/` }))).toContain(sentence);
});

test.each([
  [-600_000, "this host's clock is 10 min ahead of the server's"],
  [600_000, "this host's clock is 10 min behind the server's"],
])("a clock that is wrong by %d ms is told", async (by, sentence) => {
  using front = startFront(server, async (_, forward) => {
    const answer = await forward();
    answer.headers.set("date", new Date(Date.now() + by).toUTCString());
    return answer;
  });
  expect(await failureOf(probe(front.endpoint))).toContain(sentence);
});

test("a clock so wrong that no signature is taken is told as that", async () => {
  using front = startFront(server, () => s3Error(403, "RequestTimeTooSkewed"));
  expect(await failureOf(probe(front.endpoint))).toContain(
    "this host's clock is too far from the server's; set it right",
  );
});

test("a key that may only read is told", async () => {
  using front = startFront(server, (request, forward) =>
    request.method === "PUT" ? s3Error(403, "AccessDenied") : forward(),
  );
  expect(await failureOf(probe(front.endpoint))).toBe(
    "Bucket test: these credentials may not do this; allow them to get, put, list and delete there (403 AccessDenied).",
  );
});

test("whether it answers now is told in a word, or with what to do", async () => {
  await reachBucket(storeAt(server.endpoint).client);
  const away = storeAt("http://127.0.0.1:1", { patienceMs: 300 }).client;
  expect(await failureOf(reachBucket(away))).toBe(
    "Bucket test: http://127.0.0.1:1 does not answer (ECONNREFUSED); see that the server runs and can be reached from here.",
  );
});
