import { afterEach, beforeEach, expect, test } from "bun:test";
import { startApi, type TestApi } from "../../fixtures/api.ts";

let api: TestApi;
let ws: string;
let admin: string;
let unlocked: string;

beforeEach(async () => {
  api = await startApi();
  const first = (await (await api.admin("/admin/setup", { method: "POST" })).json()) as Record<
    string,
    string
  >;
  [ws, admin, unlocked] = [first["workspace_id"]!, first["admin_key"]!, first["workspace_key"]!];
});
afterEach(async () => {
  await api.stop();
  api.remove();
});

const keysPath = () => `/v1/workspaces/${ws}/keys`;
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

async function mint(json: object): Promise<{ status: number; body: Record<string, unknown> }> {
  const response = await api.call(keysPath(), { key: admin, json });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

test("me tells each kind of key what it is", async () => {
  const locked = await mint({ name: "alice", namespace: "alice", admin: false });
  const me = async (key: string) => (await api.call("/v1/me", { key })).json();
  expect(await me(admin)).toMatchObject({
    workspace_id: ws,
    key_name: "admin",
    scope: "admin",
    namespace: null,
  });
  expect(await me(unlocked)).toMatchObject({ scope: "workspace", namespace: null });
  expect(await me(locked.body["api_key"] as string)).toEqual({
    workspace_id: ws,
    key_id: locked.body["key_id"],
    key_name: "alice",
    scope: "workspace",
    namespace: "alice",
  });
});

test("a minted key is shown once, then listed without it", async () => {
  const { status, body } = await mint({ name: "alice's agent", namespace: "alice", admin: false });
  expect(status).toBe(200);
  expect(body).toEqual({
    key_id: expect.stringMatching(/^key-[a-z2-7]{16}$/),
    name: "alice's agent",
    prefix: (body["api_key"] as string).slice(0, 14),
    scope: "workspace",
    namespace: "alice",
    created_at: expect.stringMatching(TIME),
    last_used_at: null,
    api_key: expect.stringMatching(/^trove-sk-[A-Za-z0-9]{48}$/),
  });
  const list = await (await api.call(keysPath(), { key: admin })).text();
  const { api_key: _, ...rest } = body;
  expect((JSON.parse(list) as { keys: unknown[] }).keys).toContainEqual(rest);
  expect(list).not.toContain((body["api_key"] as string).slice(20));
});

test("minting makes the locked key's namespace", async () => {
  await mint({ name: "n", namespace: "made@by:a+key" });
  const list = await api.call(`/v1/workspaces/${ws}/namespaces`, { key: admin });
  expect(await list.json()).toEqual({
    namespaces: [
      {
        namespace: "made@by:a+key",
        size_bytes: 0,
        file_count: 0,
        created_at: expect.stringMatching(TIME),
        last_used_at: expect.stringMatching(TIME),
      },
    ],
  });
});

test("what is no new key is refused with the field's name, and nothing is made", async () => {
  const cases: [object, RegExp][] = [
    [{}, /"name"/],
    [{ name: "" }, /"name".*empty/],
    [{ name: "a\nb" }, /"name".*control/],
    [{ name: "x".repeat(201) }, /"name".*200/],
    [{ name: "n", namespace: "../up" }, /"namespace".*letter or digit/],
    [{ name: "n", admin: "yes" }, /"admin"/],
    [{ name: "n", admin: true, namespace: "a" }, /either admin or namespace/],
    [{ name: "n", namepsace: "alice" }, /^The body: has no field "namepsace"\.$/],
    [{ name: "n", scope: "admin" }, /has no field "scope"/],
    [{ name: "n", [`${"x".repeat(99)}\n${"y".repeat(5000)}`]: 1 }, /^The body: has no field "x{99}\\n…"\.$/],
  ];
  for (const [json, detail] of cases) {
    const { status, body } = await mint(json);
    expect([status, body]).toEqual([422, { detail: expect.stringMatching(detail) }]);
  }
  const { keys } = (await (await api.call(keysPath(), { key: admin })).json()) as {
    keys: { name: string }[];
  };
  // Made in one millisecond, they may be in either order.
  expect(keys.map(({ name }) => name).toSorted()).toEqual(["admin", "workspace"]);
  expect(await (await api.call(`/v1/workspaces/${ws}/namespaces`, { key: admin })).json()).toEqual({
    namespaces: [],
  });
});

test("revoking ends a call in flight, with a 5xx since it may have changed something, and the key with it", async () => {
  const { body } = await mint({ name: "n" });
  const key = body["api_key"] as string;
  const slow = api.call("/slow", { method: "POST", key, namespace: "a" });
  while (api.contents.size === 0 && (await api.namespaces.find(ws as never, "a")) === null)
    await Bun.sleep(1);
  const bystander = api.call("/slow", { method: "POST", key: unlocked, namespace: "a" });
  const revoked = await api.call(`${keysPath()}/${body["key_id"] as string}`, {
    method: "DELETE",
    key: admin,
  });
  expect(await revoked.json()).toEqual({ revoked: body["key_id"] });
  expect((await slow).status).toBe(502);
  expect((await api.call("/v1/me", { key })).status).toBe(401);
  expect(await Promise.race([bystander, Bun.sleep(50).then(() => "still running")])).toBe("still running");
  const again = await api.call(`${keysPath()}/${body["key_id"] as string}`, { method: "DELETE", key: admin });
  expect(again.status).toBe(404);
  await api.call(`/v1/workspaces/${ws}/namespaces/a`, { method: "DELETE", key: admin });
  expect((await bystander).status).toBe(409);
});

test("a deleted namespace takes its files and locked keys along, and starts afresh", async () => {
  const { body } = await mint({ name: "n", namespace: "b@c:d+e" });
  const key = body["api_key"] as string;
  expect((await api.call("/write", { key, json: { path: "f", content: "1234" } })).status).toBe(200);
  const path = `/v1/workspaces/${ws}/namespaces`;
  expect(await (await api.call(path, { key: admin })).json()).toMatchObject({
    namespaces: [{ size_bytes: 4, file_count: 1 }],
  });
  const gone = await api.call(`${path}/b%40c%3Ad%2Be`, { method: "DELETE", key: admin });
  expect(await gone.json()).toEqual({ deleted: "b@c:d+e" });
  expect((await api.call("/v1/files", { key })).status).toBe(401);
  const fresh = await api.call("/v1/files", { key: unlocked, namespace: "b@c:d+e" });
  expect(await fresh.json()).toEqual({ entries: [] });
  expect((await api.call(`${path}/b@c:d+e`, { method: "DELETE", key: admin })).status).toBe(404);
});

test("the first run's keys come again until they are confirmed, and never after", async () => {
  const setup = async () =>
    (await (await api.admin("/admin/setup", { method: "POST" })).json()) as Record<string, unknown>;
  const again = await setup();
  expect(again).toMatchObject({ created: true, workspace_id: ws });
  expect((await api.call("/v1/me", { key: admin })).status).toBe(401);
  const key = again["admin_key"] as string;
  expect((await api.call("/v1/me", { key })).status).toBe(200);
  await api.admin("/admin/setup/confirm", { method: "POST" });
  expect(await setup()).toEqual({ created: false });
  expect((await api.call("/v1/me", { key })).status).toBe(200);
});

test("the operator does all of it for any workspace, without a key and by socket only", async () => {
  const made = (await (await api.admin("/admin/workspaces", { json: { name: "second" } })).json()) as {
    workspace_id: string;
  };
  const list = (await (await api.admin("/admin/workspaces")).json()) as { workspaces: { name: string }[] };
  expect(list.workspaces.map(({ name }) => name)).toEqual(["main", "second"]);
  const headers = { "x-workspace": made.workspace_id };
  const wrote = await api.admin("/write", { headers, namespace: "a", json: { path: "f", content: "" } });
  expect(wrote.status).toBe(200);
  expect(await (await api.admin("/v1/files", { headers, namespace: "a" })).json()).toEqual({
    entries: ["f"],
  });
  const minted = await api.admin(`/v1/workspaces/${made.workspace_id}/keys`, {
    json: { name: "k", admin: true },
  });
  expect(await minted.json()).toMatchObject({ scope: "admin" });
  expect((await api.admin("/v1/workspaces/ws-aaaaaaaaaaaaaaaa/keys")).status).toBe(404);
  expect((await api.admin("/v1/files", { namespace: "a" })).status).toBe(404);
  expect((await api.admin("/admin/workspaces", { key: admin })).status).toBe(403);
  expect((await api.call("/v1/files", { headers, namespace: "a" })).status).toBe(401);
});
