import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { APPLIANCE } from "../../../../src/audit/event.ts";
import { raw, startApi, type TestApi } from "../../../fixtures/api.ts";

let api: TestApi;
let workspace: string;
let locked: { keyId: string; apiKey: string };
let unlocked: { keyId: string; apiKey: string };
beforeAll(async () => {
  api = await startApi();
  const { id } = await api.workspaces.create("w", APPLIANCE);
  workspace = id;
  const made = await api.keys.create(
    { workspaceId: id, name: "a", scope: "admin", namespace: null },
    APPLIANCE,
  );
  const make = async (namespace: string | null) => {
    const json = { name: "k", namespace, admin: false };
    const answer = await api.call(`/v1/workspaces/${id}/keys`, { key: made.apiKey, json });
    const { key_id, api_key } = (await answer.json()) as { key_id: string; api_key: string };
    return { keyId: key_id, apiKey: api_key };
  };
  locked = await make("alice@example.com");
  unlocked = await make(null);
});
afterAll(async () => {
  await api.stop();
  api.remove();
});
beforeEach(() => void api.accessLog.splice(0));

/** The lines so far, without what differs from run to run. */
function lines() {
  return api.accessLog.map((line) => {
    const { time, duration_ms, ...rest } = JSON.parse(line) as Record<string, unknown>;
    expect(line).toEndWith("}\n");
    expect(time).toBe(new Date(time as string).toISOString());
    expect(duration_ms).toBeNumber();
    return rest;
  });
}

const common = { level: "info", role: "api", message: "request", request_id: expect.any(String) };

describe("a request is one line", () => {
  test("with its route, who called, and the id that its answer has", async () => {
    const answer = await api.call("/write", { key: locked.apiKey, json: { path: "a", content: "b" } });
    expect(lines()).toEqual([
      {
        ...common,
        request_id: answer.headers.get("x-request-id"),
        route: "/write",
        method: "POST",
        status: 200,
        workspace,
        namespace: "alice@example.com",
        key: locked.keyId,
        address: "127.0.0.1",
      },
    ]);
  });

  test("with the route's pattern, also where who calls is refused", async () => {
    await api.call(`/v1/workspaces/${workspace}/keys`);
    await api.call(`/v1/workspaces/${workspace}/keys`, { key: unlocked.apiKey });
    await api.admin(`/v1/workspaces/${workspace}/keys`);
    await api.call("/files/a/secret-name.txt", { key: locked.apiKey, namespace: "another" });
    const nobody = { workspace: null, namespace: null, key: null };
    const keys = { ...common, route: "/v1/workspaces/:ws/keys", method: "GET", address: "127.0.0.1" };
    expect(lines()).toEqual([
      { ...keys, ...nobody, status: 401 },
      { ...keys, ...nobody, status: 403, workspace, key: unlocked.keyId },
      { ...keys, ...nobody, status: 200, workspace, address: null },
      { ...keys, ...nobody, status: 403, workspace, key: locked.keyId, route: "/files/*" },
    ]);
  });

  test("without one where there is none, where the path is refused, and where the method is wrong", async () => {
    await api.call("/nothing/here?at=all");
    await raw(api.port, "GET /files/a/%2e%2e/b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    await api.call("/v1/me", { method: "PATCH" });
    expect(lines().map(({ route, method, status }) => ({ route, method, status }))).toEqual([
      { route: null, method: "GET", status: 404 },
      { route: null, method: "GET", status: 400 },
      { route: null, method: "PATCH", status: 405 },
    ]);
  });

  test("when the appliance is at fault, too; the other line with its id says why", async () => {
    const answer = await api.call("/boom", { method: "POST", key: locked.apiKey });
    expect(lines()).toMatchObject([{ status: 500, route: "/boom" }]);
    expect(api.logged.at(-1)?.fields).toMatchObject({
      request_id: answer.headers.get("x-request-id"),
      route: "/boom",
    });
  });

  test("and those of load balancers are none", async () => {
    expect((await api.call("/healthz")).status).toBe(200);
    expect(lines()).toEqual([]);
  });
});

test("no key gets into it, wherever a client puts it", async () => {
  const { apiKey } = unlocked;
  const head = `Host: x\r\nConnection: close\r\n`;
  await raw(api.port, `GET /v1/me?key=${apiKey} HTTP/1.1\r\n${head}\r\n`);
  await raw(api.port, `GET /files/${apiKey} HTTP/1.1\r\n${head}Authorization: Bearer ${apiKey}\r\n\r\n`);
  await raw(
    api.port,
    `GET /${apiKey} HTTP/1.1\r\n${head}User-Agent: ${apiKey}\r\nReferer: ${apiKey}\r\n\r\n`,
  );
  await raw(
    api.port,
    `GET /v1/files HTTP/1.1\r\n${head}Authorization: Bearer ${apiKey}\r\nX-Namespace: ${apiKey}\r\n\r\n`,
  );
  expect(api.accessLog).toHaveLength(4);
  expect(lines()[3]).toMatchObject({ status: 200, namespace: `${apiKey.slice(0, 14)}[redacted]` });
  expect(api.accessLog.join("")).not.toContain(apiKey.slice(14, 24));
  expect(JSON.stringify(api.logged)).not.toContain(apiKey.slice(14, 24));
});
