import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { APPLIANCE } from "../../../../src/audit/event.ts";
import { raw, startApi, type TestApi } from "../../../fixtures/api.ts";
import { until } from "../../../fixtures/until.ts";

let api: TestApi;
let keys: { one: string; other: string; revoked: string };
beforeEach(async () => {
  api = await startApi();
  const { id } = await api.workspaces.create("w", APPLIANCE);
  const make = async (name: string) =>
    api.keys.create({ workspaceId: id, name, scope: "workspace", namespace: null }, APPLIANCE);
  const [one, other, revoked] = await Promise.all([make("one"), make("other"), make("revoked")]);
  await api.keys.revoke(id, revoked.id, APPLIANCE);
  keys = { one: one.apiKey, other: other.apiKey, revoked: revoked.apiKey };
});
afterEach(async () => {
  await api.stop();
  api.remove();
});

const me = (key?: string) => api.call("/v1/me", key === undefined ? {} : { key });
async function statuses(count: number, call: () => Promise<Response>): Promise<Record<number, number>> {
  const counts: Record<number, number> = {};
  for (let done = 0; done < count; done++) {
    const { status } = await call();
    counts[status] = (counts[status] ?? 0) + 1;
  }
  return counts;
}

describe("calls of one key", () => {
  test("over the rate get 429 with when to come again; other keys go on", async () => {
    api.rates.current = { per_key: "5/h", per_address: "0" };
    expect(await statuses(8, () => me(keys.one))).toEqual({ 200: 5, 429: 3 });
    const refused = await me(keys.one);
    expect(await refused.json()).toEqual({
      detail: expect.stringMatching(/^This key is used too often; try again in 7\d\d s\.$/),
    });
    const retryAfter = Number(refused.headers.get("retry-after"));
    expect(retryAfter).toBeGreaterThan(700);
    expect(retryAfter).toBeLessThanOrEqual(720);
    expect(refused.headers.get("ratelimit-policy")).toBe('"key";q=5;w=3600');
    expect(refused.headers.get("ratelimit")).toMatch(/^"key";r=0;t=3[56]\d\d$/);
    const allowed = await me(keys.other);
    expect([allowed.status, allowed.headers.get("ratelimit")]).toEqual([200, '"key";r=4;t=720']);
    expect(api.refusals.map(({ status, context }) => [status, context.rate?.name])).toEqual(
      Array.from({ length: 4 }, () => [429, "key"]),
    );
  });

  test("are counted in every call that takes a key", async () => {
    api.rates.current = { per_key: "1/h", per_address: "0" };
    const calls = ["/v1/files", "/files/a", "/v1/me", "/v1/workspaces/ws-x/keys"];
    expect((await me(keys.one)).status).toBe(200);
    for (const path of calls) {
      expect([path, (await api.call(path, { key: keys.one, namespace: "n" })).status]).toEqual([path, 429]);
    }
    expect(
      (await api.call("/write", { key: keys.one, namespace: "n", json: { path: "a", content: "" } })).status,
    ).toBe(429);
  });

  test("a rate that is set anew holds for the next call", async () => {
    api.rates.current = { per_key: "1/h", per_address: "0" };
    expect(await statuses(3, () => me(keys.one))).toEqual({ 200: 1, 429: 2 });
    api.rates.current = { per_key: "0", per_address: "0" };
    expect(await statuses(3, () => me(keys.one))).toEqual({ 200: 3 });
    expect((await me(keys.one)).headers.has("ratelimit")).toBe(false);
  });
});

describe("calls from one address", () => {
  test("over the rate get 429, whatever they ask and with any key; /healthz is answered", async () => {
    api.rates.current = { per_key: "0", per_address: "4/h" };
    expect(await statuses(4, () => me(keys.one))).toEqual({ 200: 4 });
    for (const path of [
      "/v1/me",
      "/nothing",
      "/files/a/%2e%2e",
      "/files/healthz",
      "/healthz/x",
      "/x?/healthz",
    ]) {
      const refused = await api.call(path, { key: keys.other, namespace: "n" });
      expect([path, refused.status, refused.headers.get("ratelimit-policy")]).toEqual([
        path,
        429,
        '"address";q=4;w=3600',
      ]);
      expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    }
    expect((await api.call("/healthz")).status).toBe(200);
  });

  test("are refused before anything of the body is read", async () => {
    api.rates.current = { per_key: "0", per_address: "1/h" };
    await me(keys.one);
    // The body that is announced never comes.
    const head = `POST /write HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${keys.one}\r\nX-Namespace: n\r\n`;
    const answer = await raw(api.port, `${head}Connection: close\r\nContent-Length: 100\r\n\r\n`);
    expect(answer).toStartWith("HTTP/1.1 429");
  });
});

describe("calls without a valid key", () => {
  test("get 429 when there are many, while a valid key of the same address works", async () => {
    const bad = ["trove-sk-nonsense", keys.revoked, undefined];
    const turn = { at: 0 };
    const counts = await statuses(90, () => me(bad[turn.at++ % bad.length]));
    expect(counts[401]).toBeGreaterThanOrEqual(60);
    expect(counts[429]).toBeGreaterThan(0);
    for (const key of bad) {
      // One a second is let through again.
      const refused = await until(async () => {
        const answer = await me(key);
        return answer.status === 429 && answer;
      });
      expect(await refused.json()).toEqual({
        detail: "Too many calls without a valid key came from this address; try again in 1 s.",
      });
      expect(refused.headers.get("retry-after")).toBe("1");
    }
    // Both the key that was used before and one that has to be looked up.
    expect((await me(keys.one)).status).toBe(200);
    expect((await me(keys.other)).status).toBe(200);
  });

  test("the hook is told of each 401, 403 and 429, and of nothing else", async () => {
    await me();
    await me(keys.one);
    await api.call("/v1/workspaces/ws-x/keys", { key: keys.one });
    await api.call("/nothing");
    expect(api.refusals.map(({ status, context }) => [status, context.address])).toEqual([
      [401, "127.0.0.1"],
      [403, "127.0.0.1"],
    ]);
  });
});

test("the admin socket has no limits", async () => {
  api.rates.current = { per_key: "1/h", per_address: "1/h" };
  expect(await statuses(100, () => api.admin("/admin/config"))).toEqual({ 200: 100 });
  expect(await statuses(100, () => api.admin("/v1/files", { key: "trove-sk-x" }))).toEqual({ 401: 100 });
});
