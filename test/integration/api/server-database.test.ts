import { afterAll, beforeAll, expect, test } from "bun:test";
import { startApi, type TestApi } from "../../fixtures/api.ts";
import { draftOf, startTenant } from "../../fixtures/log.ts";
import { startReceiver } from "../../fixtures/receiver.ts";
import { openHost } from "../../fixtures/server-ledger.ts";
import { startServerFront, type Passage, type ServerFront } from "../../fixtures/server-front.ts";
import { startSqld, type Sqld } from "../../fixtures/sqld.ts";
import { until } from "../../fixtures/until.ts";

/* Accounts, events and webhooks over a libSQL server whose answers get lost. */

let server: Sqld;
let front: ServerFront;
let api: TestApi;
let tenant: Awaited<ReturnType<typeof startTenant>>;
const receiver = startReceiver();

beforeAll(async () => {
  server = await startSqld();
  // Plans look first, which is not what is to fail.
  front = startServerFront(server.url, { only: "BEGIN IMMEDIATE" });
  const { db } = await openHost(front.url, { after: front.after });
  api = await startApi({ db });
  tenant = await startTenant(api);
});
afterAll(async () => {
  await api.stop();
  api.remove();
  await receiver.stop();
  front[Symbol.dispose]();
  await server[Symbol.asyncDispose]();
});

const path = (rest: string) => `/v1/workspaces/${tenant.ws}${rest}`;
const status = async (key: string, namespace = "own") =>
  (await api.call("/v1/files", { key, namespace })).status;
const works = async (key: string) => until(async () => (await status(key)) === 200);

/** A call whose transaction meets this on its way, and whatever else is asked until the server is back. */
async function during(passage: Passage, call: () => Promise<Response>): Promise<Response> {
  front.passage = passage;
  const answer = await call();
  front.passage = "pass";
  await works(tenant.keys.unlocked.apiKey);
  return answer;
}

test("pages of events are as with a file", async () => {
  for (let n = 0; n < 25; n++) await api.ledger.append([draftOf(tenant.ws, n, { type: "file.written" })]);
  const seen: number[] = [];
  for (let cursor: string | null = ""; cursor !== null;) {
    const page = await tenant.page({
      limit: "10",
      types: "file.written",
      ...(cursor === "" ? {} : { cursor }),
    });
    seen.push(...page.events.map(({ data }) => data.n));
    cursor = page.next_cursor;
  }
  expect(seen).toEqual(Array.from({ length: 25 }, (_, n) => 24 - n));
});

test("a revocation whose answer was lost is a revocation, for a key that was in use as well", async () => {
  const { apiKey, id } = await api.keys.create(
    { workspaceId: tenant.ws, name: "gone", scope: "workspace", namespace: null },
    { keyId: null, localUser: null, requestId: null, address: null },
  );
  expect(await status(apiKey)).toBe(200);
  const answer = await during("lose the answer", () =>
    api.call(path(`/keys/${id}`), { method: "DELETE", key: tenant.keys.admin.apiKey }),
  );
  expect(answer.status).toBe(503);
  expect(await answer.text()).toContain("look whether it was before you try again");
  expect(await status(apiKey)).toBe(401);
  expect((await tenant.page({ types: "key.revoked" })).events.length).toBe(1);
});

test("one that arrives late is none: the key works on, and it can be revoked again", async () => {
  const { apiKey, id } = await api.keys.create(
    { workspaceId: tenant.ws, name: "late", scope: "workspace", namespace: null },
    { keyId: null, localUser: null, requestId: null, address: null },
  );
  const revoke = () => api.call(path(`/keys/${id}`), { method: "DELETE", key: tenant.keys.admin.apiKey });
  expect((await during("late", revoke)).status).toBe(503);
  await front.deliver();
  expect(await status(apiKey)).toBe(200);
  expect((await revoke()).status).toBe(200);
  expect(await status(apiKey)).toBe(401);
  expect((await tenant.page({ types: "key.revoked" })).events.length).toBe(2);
});

test("a namespace whose deletion's answer was lost is gone with the keys that were locked to it", async () => {
  const { locked, admin } = tenant.keys;
  expect(await status(locked.apiKey)).toBe(200);
  const answer = await during("lose the answer", () =>
    api.call(path("/namespaces/own"), { method: "DELETE", key: admin.apiKey }),
  );
  expect(answer.status).toBe(503);
  expect(await status(locked.apiKey)).toBe(401);
  expect((await tenant.page({ types: "namespace.deleted" })).events.length).toBe(1);
});

test("a webhook whose creation's answer was lost gets what happens from then on", async () => {
  const answer = await during("lose the answer", () =>
    api.call(path("/webhooks"), {
      key: tenant.keys.admin.apiKey,
      json: { url: `${receiver.url}/hook`, events: ["file.*"] },
    }),
  );
  expect(answer.status).toBe(503);
  await api.ledger.append([draftOf(tenant.ws, 1)]);
  await receiver.until((received) => received.length > 0);
  expect(JSON.parse(receiver.received[0]?.body ?? "{}")).toMatchObject({
    type: "file.written",
    data: { n: 1 },
  });
});

test("while it is away nothing is answered, a key that was seen before included, and nobody waits", async () => {
  expect(await status(tenant.keys.unlocked.apiKey)).toBe(200);
  await server.kill();
  await until(async () => (await status(tenant.keys.unlocked.apiKey)) === 503);
  const calls = ["/v1/me", path("/keys"), path("/events"), path("/webhooks"), path("/namespaces")];
  for (const call of calls) {
    const answer = await api.call(call, { key: tenant.keys.admin.apiKey });
    expect([call, answer.status, answer.headers.has("retry-after")]).toEqual([call, 503, true]);
  }
  await server.start();
  await works(tenant.keys.unlocked.apiKey);
});
