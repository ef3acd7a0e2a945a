import { afterAll, beforeAll, expect, test } from "bun:test";
import { APPLIANCE } from "../../../src/audit/event.ts";
import type { WorkspaceId } from "../../../src/ids.ts";
import { startApi, type TestApi } from "../../fixtures/api.ts";
import { startReceiver } from "../../fixtures/receiver.ts";

let api: TestApi;
let workspace: WorkspaceId;
const keys = { admin: "", workspace: "", locked: "" };
const receiver = startReceiver();

beforeAll(async () => {
  api = await startApi();
  const setup = (await (await api.admin("/admin/setup", { method: "POST" })).json()) as {
    workspace_id: WorkspaceId;
    admin_key: string;
    workspace_key: string;
  };
  workspace = setup.workspace_id;
  const locked = await api.call(`/v1/workspaces/${workspace}/keys`, {
    key: setup.admin_key,
    json: { name: "locked", namespace: "alice" },
  });
  keys.admin = setup.admin_key;
  keys.workspace = setup.workspace_key;
  keys.locked = ((await locked.json()) as { api_key: string }).api_key;
});

afterAll(async () => {
  await api.stop();
  api.remove();
  await receiver.stop();
});

const at = (rest = "") => `/v1/workspaces/${workspace}/webhooks${rest}`;

async function ask(path: string, init: Parameters<TestApi["call"]>[1] = {}) {
  const response = await api.call(path, { key: keys.admin, ...init });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

async function create(json: Record<string, unknown>) {
  const { status, body } = await ask(at(), { json });
  expect({ status, body }).toMatchObject({ status: 200 });
  return body as { webhook_id: string; signing_secret: string; created_at: string };
}

const write = (count: number, namespace: string | null = null) =>
  api.ledger.append(
    Array.from({ length: count }, (_, n) => ({
      chain: workspace,
      type: "file.written",
      namespace,
      data: { path: `workspace/${n}` },
      origin: APPLIANCE,
    })),
  );

test("the answer to a creation is the wire's, and the secret is in no later one", async () => {
  const made = await create({
    url: `${receiver.url}/hook`,
    events: ["*"],
    namespace: null,
    description: "ci",
  });
  expect(made).toEqual({
    webhook_id: expect.stringMatching(/^wh-[a-z2-7]{16}$/),
    url: `${receiver.url}/hook`,
    events: ["*"],
    namespace: null,
    description: "ci",
    enabled: true,
    disabled_reason: null,
    created_at: expect.stringMatching(/^\d{4}-.*Z$/),
    last_delivery_ok: null,
    last_delivery_status: null,
    last_delivery_error: null,
    last_delivery_at: null,
    signing_secret: expect.stringMatching(/^whsec_[A-Za-z0-9+/]{43}=$/),
  } as never);
  const list = await (await api.call(at(), { key: keys.admin })).text();
  expect(list).toContain(made.webhook_id);
  expect(list).not.toContain("whsec_");
  expect(await ask(at(`/${made.webhook_id}`), { method: "DELETE" })).toMatchObject({
    status: 200,
    body: { deleted: made.webhook_id },
  });
  expect((await ask(at())).body).toEqual({ webhooks: [] });
  expect((await ask(at(`/${made.webhook_id}`), { method: "DELETE" })).status).toBe(404);
});

test("only an admin key of the workspace, or the operator, may do any of it", async () => {
  const { webhook_id: id } = await create({ url: receiver.url });
  const calls: [string, string, unknown?][] = [
    ["POST", at(), { url: receiver.url }],
    ["GET", at()],
    ["DELETE", at(`/${id}`)],
    ["POST", at(`/${id}/test`)],
    ["POST", at(`/${id}/rotate`)],
    ["POST", at(`/${id}/enable`)],
    ["POST", at(`/${id}/disable`)],
    ["GET", at(`/${id}/deliveries`)],
    ["POST", at(`/${id}/deliveries/evt-a/replay`)],
    ["POST", at(`/${id}/replay`), { since: "2026-01-01" }],
  ];
  const other = (await (await api.admin("/admin/workspaces", { json: { name: "other" } })).json()) as {
    workspace_id: string;
  };
  const minted = await api.admin(`/v1/workspaces/${other.workspace_id}/keys`, {
    json: { name: "foreign", admin: true },
  });
  const foreign = ((await minted.json()) as { api_key: string }).api_key;
  for (const [method, path, json] of calls) {
    for (const key of [keys.workspace, keys.locked, foreign])
      expect([method, path, (await api.call(path, { method, key, json })).status]).toEqual([
        method,
        path,
        403,
      ]);
    expect((await api.call(path, { method, json })).status).toBe(401);
    // Its own workspace has no such webhook, whatever another one has.
    const elsewhere = path.replace(workspace, other.workspace_id);
    if (path.includes(id))
      expect([path, (await api.call(elsewhere, { method, key: foreign, json })).status]).toEqual([path, 404]);
  }
  expect(receiver.received.filter(({ headers }) => headers["x-trove-event"] === "webhook.test")).toEqual([]);
  expect((await api.admin(at())).status).toBe(200);
  await ask(at(`/${id}`), { method: "DELETE" });
});

test("what won't do is refused with a sentence that says what would", async () => {
  const url = receiver.url;
  const cases: [Record<string, unknown>, RegExp][] = [
    [{}, /url.*missing/],
    [{ url: "ftp://h/" }, /https:\/\//],
    [{ url: "https://user:pass@h/" }, /user name or password/],
    [{ url: `https://h/${"x".repeat(3000)}` }, /2048 characters/],
    [{ url, events: [] }, /all/],
    [{ url, events: ["file.written", "no spaces"] }, /file\.\*/],
    [{ url, events: ["file.writen"] }, /"events.0".*"file\.written"/],
    [{ url, events: ["fil.*"] }, /"file\.\*"/],
    [{ url, events: Array.from({ length: 51 }, () => "*") }, /50/],
    [{ url, namespace: "../x" }, /namespace name/i],
    [{ url, description: "x".repeat(201) }, /200/],
  ];
  for (const [json, pattern] of cases) {
    const { status, body } = await ask(at(), { json });
    expect([json, status]).toEqual([json, 422]);
    expect(body["detail"]).toMatch(pattern);
  }
  expect((await ask(at())).body).toEqual({ webhooks: [] });
  for (const json of [
    { url, events: ["run.*", "webhook.disabled"] },
    { url, events: null, namespace: "alice" },
  ]) {
    const { webhook_id } = await create(json);
    await ask(at(`/${webhook_id}`), { method: "DELETE" });
  }
});

test("a workspace has fifty at most, also when they are made at once", async () => {
  const all = await Promise.all(
    Array.from({ length: 60 }, () => ask(at(), { json: { url: receiver.url, events: ["key.revoked"] } })),
  );
  expect(all.filter(({ status }) => status === 200)).toHaveLength(50);
  expect(all.filter(({ status }) => status === 409)).toHaveLength(10);
  const made = all.flatMap(({ body }) =>
    body["webhook_id"] === undefined ? [] : [body["webhook_id"] as string],
  );
  await Promise.all(made.map((id) => ask(at(`/${id}`), { method: "DELETE" })));
});

test("deliveries, their list by state and page, and replays", async () => {
  const { webhook_id: id } = await create({ url: `${receiver.url}/pages`, events: ["file.*"] });
  receiver.received.length = 0;
  const events = await write(25);
  await receiver.until((received) => received.length === 25);
  const listed: string[] = [];
  let cursor = "";
  do {
    const { status, body } = await ask(at(`/${id}/deliveries?limit=10${cursor}`));
    expect(status).toBe(200);
    listed.push(...(body["deliveries"] as { event_id: string }[]).map(({ event_id }) => event_id));
    cursor = body["next_cursor"] === null ? "" : `&cursor=${body["next_cursor"] as string}`;
  } while (cursor !== "");
  expect(listed).toEqual(events.map((event) => event.id as string).toReversed());
  for (const bad of ["state=x", "limit=0", "limit=1001", "limit=a", "cursor=x", "what=1"])
    expect([bad, (await ask(at(`/${id}/deliveries?${bad}`))).status]).toEqual([bad, 422]);

  receiver.received.length = 0;
  const [first] = events;
  const one = await ask(at(`/${id}/deliveries/${first?.id}/replay`), { method: "POST" });
  expect(one).toMatchObject({ status: 200, body: { event_id: first?.id, state: "waiting" } });
  await receiver.until((received) => received.length === 1);
  expect(receiver.ids()).toEqual([first?.id as string]);

  const tenth = events[9];
  const after = await ask(at(`/${id}/replay`), { json: { cursor: tenth?.id } });
  expect(after.body).toEqual({ queued: 15, cursor: null });
  await receiver.until((received) => received.length === 16);
  expect(receiver.ids().slice(1).toSorted()).toEqual(
    events
      .slice(10)
      .map((event) => event.id as string)
      .toSorted(),
  );

  const since = (JSON.parse(tenth?.body ?? "") as { created_at: string }).created_at;
  const until = (JSON.parse(events[11]?.body ?? "") as { created_at: string }).created_at;
  expect((await ask(at(`/${id}/replay`), { json: { since, until } })).body).toEqual({
    queued: 2,
    cursor: null,
  });
  expect((await ask(at(`/${id}/replay`), { json: { since, dead_only: true } })).body).toEqual({
    queued: 0,
    cursor: null,
  });
  const told = await ask(`/v1/workspaces/${workspace}/events?types=webhook.replayed`);
  expect((told.body["events"] as { data: object }[]).map(({ data }) => data)).toMatchObject([
    { webhook_id: id, after: since, until: null, dead_only: true },
    { after: since, until },
    { after: since, until: null, dead_only: false },
    { webhook_id: id, event_id: first?.id },
  ]);
  for (const json of [{}, { since: "yesterday" }, { cursor: "evt-x" }])
    expect([json, (await ask(at(`/${id}/replay`), { json })).status]).toEqual([json, 422]);
  expect(
    (await ask(at(`/${id}/deliveries/evt-aaaaaaaaaaaaaaaaaaaa/replay`), { method: "POST" })).status,
  ).toBe(404);
  await ask(at(`/${id}`), { method: "DELETE" });
});

test("test, rotate, disable and enable, each audited with who did it", async () => {
  const { webhook_id: id } = await create({ url: `${receiver.url}/all?token=hush`, events: ["key.revoked"] });
  receiver.received.length = 0;
  const tested = await ask(at(`/${id}/test`), { method: "POST" });
  expect(tested.body).toEqual({ ok: true, event_id: receiver.ids()[0] ?? "", status: 200, error: null });
  receiver.behaviour.answer = () => new Response("no", { status: 500 });
  expect((await ask(at(`/${id}/test`), { method: "POST" })).body).toMatchObject({ ok: false, status: 500 });
  receiver.behaviour.answer = () => new Response("ok");
  const [shown] = (await ask(at())).body["webhooks"] as Record<string, unknown>[];
  expect(shown).toMatchObject({ last_delivery_ok: false, last_delivery_status: 500 });

  const rotated = await ask(at(`/${id}/rotate`), { method: "POST" });
  expect(rotated.body["signing_secret"]).toMatch(/^whsec_/);
  expect(Date.parse(rotated.body["previous_valid_until"] as string) - Date.now()).toBeGreaterThan(86_000_000);
  expect((await ask(at(`/${id}/rotate`), { json: { overlap_s: 86_401 } })).status).toBe(422);
  expect((await ask(at(`/${id}/disable`), { method: "POST" })).body).toMatchObject({ enabled: false });
  expect((await ask(at(`/${id}/disable`), { method: "POST" })).body).toMatchObject({ enabled: false });
  expect((await ask(at(`/${id}/enable`), { method: "POST" })).body).toMatchObject({ enabled: true });
  await ask(at(`/${id}`), { method: "DELETE" });

  const { rows } = await api.db.$client.execute({
    sql: "SELECT type, body FROM events WHERE chain = ? AND body LIKE ? ORDER BY created_at",
    args: [workspace, `%${id}%`],
  });
  const kinds = ["created", "test", "test", "rotated", "disabled", "enabled", "deleted"];
  expect(rows.map((row) => row["type"])).toEqual(kinds.map((kind) => `webhook.${kind}`));
  for (const row of rows) {
    const body = JSON.parse(row["body"] as string) as Record<string, unknown>;
    expect(body["actor_key_id"]).toMatch(/^key-/);
    expect(body["data"]).toMatchObject({ webhook_id: id, url: `${receiver.url}/all?…` });
  }
});
