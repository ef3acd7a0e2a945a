import { afterAll, beforeAll, expect, test } from "bun:test";
import { startApi, type TestApi } from "../../fixtures/api.ts";
import { allEvents, openIntents, type WireEvent } from "../../fixtures/chain.ts";

/* What account calls leave in the audit log; test/integration/api/audit-files.test.ts has those on disk. */
let api: TestApi;
let ws: string;
let admin: string;
let adminId: string;
let keysPath: string;
const seen = new Set<string>();

type Answer = Record<string, string>;
const json = async (answer: { json(): Promise<unknown> }) => (await answer.json()) as Answer;

/** The events since the last call; the chains hold together and nothing is left open. */
async function fresh(): Promise<WireEvent[]> {
  // Refused requests are a matter of their own: test/integration/audit/refusals.test.ts.
  const all = await allEvents(api.db);
  const events = all.filter(({ id, type }) => !seen.has(id) && type !== "request.refused");
  for (const { id } of events) seen.add(id);
  expect(await openIntents(api.db)).toBe(0);
  return events;
}

beforeAll(async () => {
  api = await startApi();
  const headers = { "x-cofferdam-user": "root (sudo by alice)" };
  const first = await json(await api.admin("/admin/setup", { method: "POST", headers }));
  ws = first["workspace_id"]!;
  admin = first["admin_key"]!;
  keysPath = `/v1/workspaces/${ws}/keys`;
  adminId = (await json(await api.call("/v1/me", { key: admin })))["key_id"]!;
});
afterAll(async () => {
  await api.stop();
  api.remove();
});

test("the first run: the workspace, its two keys, those taken back, and that it was finished", async () => {
  const events = await fresh();
  expect(events.map(({ type, data }) => [type, data["name"]])).toEqual([
    ["workspace.created", "main"],
    ["key.created", "admin"],
    ["key.created", "workspace"],
  ]);
  const [requestId, ...others] = new Set(events.map((event) => event.request_id));
  expect([requestId, others]).toEqual([expect.stringMatching(/^req-/), []]);
  for (const event of events) {
    expect(event).toMatchObject({
      workspace_id: ws,
      actor_key_id: null,
      actor_local_user: "root (sudo by alice)",
      source_address: null,
    });
  }

  // The admin key was used above, so only the other is taken back.
  const again = await json(await api.admin("/admin/setup", { method: "POST" }));
  const second = await fresh();
  expect(second.map(({ type, data }) => [type, data["name"]])).toEqual([
    ["key.revoked", "workspace"],
    ["key.created", "admin"],
    ["key.created", "workspace"],
  ]);
  expect(second[0]?.actor_local_user).toBe("unknown");
  expect(again["workspace_id"]).toBe(ws);

  for (const _ of [1, 2]) await api.admin("/admin/setup/confirm", { method: "POST" });
  expect((await fresh()).map(({ type }) => type)).toEqual(["setup.finished"]);
  await api.admin("/admin/setup", { method: "POST" });
  expect(await fresh()).toEqual([]);
});

test("a workspace's first event is that it was made", async () => {
  const made = await json(await api.admin("/admin/workspaces", { json: { name: "second" } }));
  expect(await fresh()).toMatchObject([
    { type: "workspace.created", workspace_id: made["workspace_id"], seq: 1, data: { name: "second" } },
  ]);
});

test("a key made and revoked: one event each, by whom, from where, for which request", async () => {
  const made = await api.call(keysPath, { key: admin, json: { name: "k", namespace: "alice" } });
  const key = await json(made.clone());
  const data = { key_id: key["key_id"], name: "k", scope: "workspace", namespace: "alice" };
  const common = {
    workspace_id: ws,
    namespace: "alice",
    actor_key_id: adminId,
    actor_local_user: null,
    source_address: "127.0.0.1",
    data,
  };
  expect(await fresh()).toMatchObject([
    { ...common, type: "key.created", request_id: made.headers.get("x-request-id") },
  ]);
  const revoked = await api.call(`${keysPath}/${key["key_id"]}`, { key: admin, method: "DELETE" });
  const events = await fresh();
  expect(events).toMatchObject([
    { ...common, type: "key.revoked", request_id: revoked.headers.get("x-request-id") },
  ]);
  // The key itself is in no event.
  expect(JSON.stringify(events)).not.toContain(key["api_key"]!);
});

test("what is refused or changes nothing has no event", async () => {
  const { key_id: id = "" } = await json(await api.call(keysPath, { key: admin, json: { name: "k" } }));
  await api.call(`${keysPath}/${id}`, { key: admin, method: "DELETE" });
  await fresh();
  const calls: [number, Promise<Response>][] = [
    [401, api.call(keysPath, { json: { name: "k" } })],
    [403, api.call("/v1/workspaces/ws-aaaaaaaaaaaaaaaa/keys", { key: admin, json: { name: "k" } })],
    [422, api.call(keysPath, { key: admin, json: { name: "" } })],
    [422, api.call(keysPath, { key: admin, json: { name: "k", admin: true, namespace: "a" } })],
    [404, api.call(`${keysPath}/${id}`, { key: admin, method: "DELETE" })],
    [404, api.call(`/v1/workspaces/${ws}/namespaces/none`, { key: admin, method: "DELETE" })],
    [422, api.admin("/admin/workspaces", { json: {} })],
    [403, api.admin("/admin/workspaces", { key: admin, json: { name: "n" } })],
    [200, api.call(keysPath, { key: admin })],
  ];
  for (const [status, call] of calls) expect((await call).status).toBe(status);
  expect(await fresh()).toEqual([]);
});

test("a namespace's deletion is one event, which names the keys that ended with it", async () => {
  const locked: string[] = [];
  for (const name of ["a", "b"]) {
    const made = await json(await api.call(keysPath, { key: admin, json: { name, namespace: "gone" } }));
    locked.push(made["key_id"]!);
  }
  const path = `${keysPath}/${locked[0]}`;
  await api.call(path, { key: admin, method: "DELETE" });
  await fresh();
  const deletions = await Promise.all(
    Array.from({ length: 20 }, () =>
      api.call(`/v1/workspaces/${ws}/namespaces/gone`, { key: admin, method: "DELETE" }),
    ),
  );
  expect(deletions.filter(({ status }) => status === 200).length).toBe(1);
  expect(await fresh()).toMatchObject([
    {
      type: "namespace.deleted",
      namespace: "gone",
      actor_key_id: adminId,
      data: { namespace: "gone", revoked_key_ids: [locked[1]] },
    },
  ]);
});

test("50 revocations of one key at once, among other changes: one of them happened", async () => {
  const { key_id: id } = await json(await api.call(keysPath, { key: admin, json: { name: "raced" } }));
  await fresh();
  const revoke = async () => (await api.call(`${keysPath}/${id}`, { key: admin, method: "DELETE" })).status;
  const make = async () => (await api.call(keysPath, { key: admin, json: { name: "other" } })).status;
  const statuses = await Promise.all(
    Array.from({ length: 100 }, (_, n) => (n % 2 === 0 ? revoke() : make())),
  );
  const revocations = statuses.filter((_, n) => n % 2 === 0);
  expect(revocations.filter((status) => status === 200).length).toBe(1);
  expect(revocations.filter((status) => status === 404).length).toBe(49);
  const types = (await fresh()).map(({ type }) => type);
  expect(types.filter((type) => type === "key.revoked").length).toBe(1);
  expect(types.length).toBe(51);
});

test("only the admin socket believes who is said to run a command, and only what can be a name", async () => {
  const headers = { "x-cofferdam-user": "mallory" };
  await api.call(keysPath, { key: admin, json: { name: "k" }, headers });
  expect(await fresh()).toMatchObject([{ actor_key_id: adminId, actor_local_user: null }]);
  // With a key it is the key's, there too.
  await api.admin(keysPath, { key: admin, json: { name: "k" }, headers });
  expect(await fresh()).toMatchObject([
    { actor_key_id: adminId, actor_local_user: null, source_address: null },
  ]);
  for (const [name, shown] of [
    ["alice", "alice"],
    ["x".repeat(101), "unknown"],
  ] as const) {
    await api.admin(keysPath, { json: { name: "k" }, headers: { "x-cofferdam-user": name } });
    expect(await fresh()).toMatchObject([{ actor_key_id: null, actor_local_user: shown }]);
  }
});
