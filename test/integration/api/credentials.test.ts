import { afterAll, beforeAll, expect, test } from "bun:test";
import { z } from "zod";
import { APPLIANCE } from "../../../src/audit/event.ts";
import { credentials as table, events } from "../../../src/db/schema.ts";
import { openWith } from "../../../src/protocol/seal.ts";
import { startApi, type TestApi } from "../../fixtures/api.ts";
import { GATEWAY_KEY } from "../../fixtures/credentials.ts";

let api: TestApi;
let path: string;
let key: string;
let workspace: string;

beforeAll(async () => {
  api = await startApi();
  const made = await api.workspaces.create("mine", APPLIANCE);
  workspace = made.id;
  path = `/v1/workspaces/${made.id}`;
  const wanted = { workspaceId: made.id, name: "boss", scope: "admin", namespace: null } as const;
  key = (await api.keys.create(wanted, APPLIANCE)).apiKey;
});
afterAll(async () => {
  await api.stop();
  api.remove();
});

const call = async (method: string, at: string, json?: unknown) => {
  const response = await api.call(`${path}${at}`, { method, key, ...(json === undefined ? {} : { json }) });
  return { status: response.status, body: z.record(z.string(), z.unknown()).parse(await response.json()) };
};
const SECRET = "sk-real-4f1c0c8bb1";

test("a secret is taken, sealed for the gateway, and shown by nothing", async () => {
  const made = await call("POST", "/credentials", {
    name: "claude",
    kind: "anthropic",
    secret: SECRET,
    namespaces: ["alice"],
  });
  expect(made).toMatchObject({
    status: 201,
    body: { name: "claude", kind: "anthropic", namespaces: ["alice"], last_used_at: null },
  });
  const listed = await call("GET", "/credentials");
  expect(listed.body["credentials"]).toEqual([made.body]);
  const one = await call("GET", `/credentials/${String(made.body["credential_id"])}`);
  expect(one.body).toEqual(made.body);

  const [row] = await api.db.select().from(table);
  const told = await api.db.select().from(events);
  expect(told.map(({ type }) => type)).toContain("credential.created");
  expect(
    JSON.stringify([made, listed, one, told, row?.sealed.toString("latin1"), api.accessLog]),
  ).not.toContain(SECRET);
  // The control: it is there, for whoever has the gateway's key.
  const opened = await openWith(GATEWAY_KEY, row?.sealed ?? new Uint8Array(), row?.id ?? "");
  expect(Buffer.from(opened).toString()).toContain(SECRET);
});

test("what a kind does not know, lacks or can't send is refused, naming the field and never the secret", async () => {
  const refused = async (body: object) => {
    const { status, body: answer } = await call("POST", "/credentials", {
      name: "x",
      kind: "openai",
      secret: SECRET,
      ...body,
    });
    expect(JSON.stringify(answer)).not.toContain(SECRET);
    return `${status} ${String(answer["detail"])}`;
  };
  expect(await refused({ kind: "azure" })).toContain('422 The field "kind"');
  expect(await refused({ secret: undefined })).toContain('422 The field "secret": is missing');
  expect(await refused({ secret: `${SECRET}\r\nx: y` })).toContain('422 The field "secret"');
  expect(await refused({ app_id: "1" })).toContain('has no field "app_id"');
  expect(await refused({ base_url: "ftp://x" })).toContain("422 base_url: The URL must start with");
  expect(await refused({ base_url: "http://169.254.169.254/" })).toContain("link-local");
  expect(await refused({ base_url: "https://10.0.0.1/v1" })).toContain("[providers] allow_private");
  expect(await refused({ base_url: "http://8.8.8.8/v1" })).toContain("https://");
  expect(await refused({ kind: "git-token" })).toContain('"git_url": is missing');
  expect(await refused({ kind: "github-app", secret: undefined, app_id: 7, private_key: SECRET })).toContain(
    "PEM",
  );
  expect(await refused({ kind: "github-app", secret: undefined, private_key: SECRET })).toContain(
    '422 The field "app_id": expected the id of a GitHub App.',
  );
  expect(
    (
      await call("POST", "/credentials", {
        name: "local",
        kind: "openai",
        secret: SECRET,
        base_url: "http://127.0.0.1:11434/v1/",
      })
    ).body,
  ).toMatchObject({ base_url: "http://127.0.0.1:11434/v1" });
});

test("a name is one credential's, and free again when that is deleted", async () => {
  const body = { name: "twice", kind: "openai", secret: SECRET };
  const first = await call("POST", "/credentials", body);
  expect((await call("POST", "/credentials", body)).status).toBe(409);
  const id = String(first.body["credential_id"]);
  expect((await call("DELETE", `/credentials/${id}`)).body).toEqual({ deleted: id });
  expect((await call("DELETE", `/credentials/${id}`)).status).toBe(404);
  expect((await call("POST", "/credentials", body)).status).toBe(201);
});

test("a policy is whole: what is not said has no ceiling", async () => {
  expect((await call("GET", "/policy")).body).toMatchObject({
    models: null,
    usd_per_day: null,
    provider_tools: false,
  });
  const set = await call("PUT", "/policy", { models: ["claude-*"], usd_per_day: 10 });
  expect(set.status).toBe(200);
  expect((await call("GET", "/policy")).body).toEqual(set.body);
  expect((await call("PUT", "/policy", { modles: [] })).body["detail"]).toContain('no field "modles"');
  expect((await call("PUT", "/policy", { hosts: ["10.0.0.1"] })).body["detail"]).toContain("hosts.0");
  expect((await call("PUT", "/policy", { limits: { memory_mb: 512 } })).body).toMatchObject({ models: null });
  expect((await api.db.select().from(events)).filter(({ type }) => type === "policy.changed")).toHaveLength(
    2,
  );
  expect(workspace).toStartWith("ws-");
});
