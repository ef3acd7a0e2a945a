import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { APPLIANCE } from "../../../src/audit/event.ts";
import { startApi, type TestApi } from "../../fixtures/api.ts";

/*
 * The table "Who may do what" of docs/api.md, row by row. Every refusal stands beside the call that is allowed, so a
 * server that refuses everything fails too.
 */
type Who = "admin" | "unlocked" | "locked" | "revoked" | "unknown" | "none" | "foreign admin";

let api: TestApi;
let ws: string;
let foreign: string;
const held: Partial<Record<Who, string>> = {};

beforeAll(async () => {
  api = await startApi();
  const workspace = await api.workspaces.create("mine", APPLIANCE);
  const other = await api.workspaces.create("other", APPLIANCE);
  [ws, foreign] = [workspace.id, other.id];
  const id = await api.namespaces.ensure(workspace.id, "own");
  await api.namespaces.ensure(workspace.id, "existing");
  const make = async (over: object) =>
    api.keys.create(
      { workspaceId: workspace.id, name: "k", scope: "workspace", namespace: null, ...over },
      APPLIANCE,
    );
  held.admin = (await make({ scope: "admin", name: "boss" })).apiKey;
  held.unlocked = (await make({})).apiKey;
  held.locked = (await make({ namespace: { id, name: "own" } })).apiKey;
  held["foreign admin"] = (await make({ scope: "admin", workspaceId: other.id })).apiKey;
  const revoked = await make({});
  await api.keys.revoke(workspace.id, revoked.id, APPLIANCE);
  held.revoked = revoked.apiKey;
  held.unknown = `trove-sk-${"A".repeat(48)}`;
});
afterAll(async () => {
  await api.stop();
  api.remove();
});

interface Row {
  readonly what: string;
  readonly path: string | (() => string);
  readonly method?: string;
  readonly json?: unknown;
  readonly namespace?: string;
  readonly expected: Partial<Record<Who, number>>;
}

const write = { path: "/write", json: { path: "a", content: "b" } };
const strangers = { revoked: 401, unknown: 401, none: 401 } as const;

const rows: Row[] = [
  { what: "write, no header", ...write, expected: { admin: 403, unlocked: 400, locked: 200, ...strangers } },
  {
    what: "write, its own",
    ...write,
    namespace: "own",
    expected: { admin: 403, unlocked: 200, locked: 200 },
  },
  {
    what: "write, another",
    ...write,
    namespace: "existing",
    expected: { admin: 403, unlocked: 200, locked: 403 },
  },
  {
    what: "write, a new one",
    ...write,
    namespace: "fresh",
    expected: { locked: 403, unlocked: 200, ...strangers },
  },
  {
    what: "read, no header",
    path: "/v1/files",
    expected: { admin: 403, unlocked: 400, locked: 200, ...strangers },
  },
  {
    what: "read, another",
    path: "/v1/files",
    namespace: "existing",
    expected: { unlocked: 200, locked: 403 },
  },
  {
    what: "read, none such",
    path: "/v1/files",
    namespace: "nothing",
    expected: { unlocked: 200, locked: 403 },
  },
  { what: "a bad name", ...write, namespace: "../x", expected: { admin: 403, unlocked: 400, locked: 403 } },
  { what: "an empty name", ...write, namespace: "", expected: { unlocked: 400, locked: 403 } },
  {
    what: "mint a key",
    path: () => `/v1/workspaces/${ws}/keys`,
    json: { name: "n", namespace: null, admin: false },
    expected: { admin: 200, unlocked: 403, locked: 403, "foreign admin": 403, ...strangers },
  },
  // Nobody waits under this code, which only who may ask is told.
  {
    what: "look at a sign-in",
    path: () => `/v1/workspaces/${ws}/logins/BCDF-GHJK`,
    expected: { admin: 404, unlocked: 403, locked: 403, "foreign admin": 403, ...strangers },
  },
  {
    what: "approve a sign-in",
    path: () => `/v1/workspaces/${ws}/logins/BCDF-GHJK/approve`,
    json: { binding: "x" },
    expected: { admin: 404, unlocked: 403, locked: 403, "foreign admin": 403, ...strangers },
  },
  {
    what: "list keys",
    path: () => `/v1/workspaces/${ws}/keys`,
    expected: { admin: 200, unlocked: 403, locked: 403, "foreign admin": 403, ...strangers },
  },
  {
    what: "list another workspace's keys",
    path: () => `/v1/workspaces/${foreign}/keys`,
    expected: { admin: 403, unlocked: 403, locked: 403, "foreign admin": 200 },
  },
  {
    what: "list the keys of a workspace that is no workspace",
    path: "/v1/workspaces/ws-nothing/keys",
    expected: { admin: 403, "foreign admin": 403, none: 401 },
  },
  {
    what: "revoke a key that is not there",
    method: "DELETE",
    path: () => `/v1/workspaces/${ws}/keys/key-aaaaaaaaaaaaaaaa`,
    expected: { admin: 404, unlocked: 403, locked: 403, "foreign admin": 403, ...strangers },
  },
  ...["credentials", "policy"].map((call): Row => ({
    what: `look at ${call}`,
    path: () => `/v1/workspaces/${ws}/${call}`,
    expected: { admin: 200, unlocked: 403, locked: 403, "foreign admin": 403, none: 401 },
  })),
  {
    what: "make a credential",
    method: "POST",
    path: () => `/v1/workspaces/${ws}/credentials`,
    json: { name: "c", kind: "openai", secret: "s" },
    expected: { unlocked: 403, locked: 403, "foreign admin": 403, none: 401, admin: 201 },
  },
  {
    what: "set the policy",
    method: "PUT",
    path: () => `/v1/workspaces/${ws}/policy`,
    json: {},
    expected: { admin: 200, unlocked: 403, locked: 403, "foreign admin": 403, none: 401 },
  },
  ...["events", "webhooks/stream"].flatMap((call): Row[] => [
    {
      what: `${call}, no namespace`,
      path: () => `/v1/workspaces/${ws}/${call}`,
      expected: { admin: 200, unlocked: 403, locked: 200, "foreign admin": 403, ...strangers },
    },
    {
      what: `${call}, its own`,
      path: () => `/v1/workspaces/${ws}/${call}?namespace=own`,
      expected: { admin: 200, unlocked: 200, locked: 200, "foreign admin": 403, ...strangers },
    },
    {
      what: `${call}, another`,
      path: () => `/v1/workspaces/${ws}/${call}?namespace=existing`,
      expected: { admin: 200, unlocked: 200, locked: 403 },
    },
    {
      what: `${call}, none such`,
      path: () => `/v1/workspaces/${ws}/${call}?namespace=nothing`,
      expected: { admin: 200, unlocked: 200, locked: 403 },
    },
    {
      what: `${call} of another workspace`,
      path: () => `/v1/workspaces/${foreign}/${call}?namespace=own`,
      expected: { admin: 403, unlocked: 403, locked: 403, "foreign admin": 200 },
    },
  ]),
  {
    what: "list namespaces",
    path: () => `/v1/workspaces/${ws}/namespaces`,
    expected: { admin: 200, unlocked: 403, locked: 403, "foreign admin": 403, ...strangers },
  },
  {
    what: "delete a namespace that is not there",
    method: "DELETE",
    path: () => `/v1/workspaces/${ws}/namespaces/nothing`,
    expected: { admin: 404, unlocked: 403, locked: 403, "foreign admin": 403, ...strangers },
  },
  { what: "me", path: "/v1/me", expected: { admin: 200, unlocked: 200, locked: 200, ...strangers } },
  { what: "health", path: "/healthz", expected: { admin: 200, none: 200 } },
  // The operator's routes are not on TCP at all, whoever asks.
  { what: "admin routes", path: "/admin/workspaces", expected: { admin: 404, unlocked: 404, none: 404 } },
  { what: "first run", path: "/admin/setup", method: "POST", expected: { admin: 404, none: 404 } },
];

for (const { what, path, method, json, namespace, expected } of rows) {
  describe(what, () => {
    for (const [who, status] of Object.entries(expected) as [Who, number][]) {
      test(`${who}: ${status}`, async () => {
        const response = await api.call(typeof path === "string" ? path : path(), {
          ...(method === undefined ? {} : { method }),
          ...(json === undefined ? {} : { json }),
          ...(namespace === undefined ? {} : { namespace }),
          ...(held[who] === undefined ? {} : { key: held[who] }),
        });
        const streams = response.headers.get("content-type") === "text/event-stream";
        // A stream has no end to wait for.
        const body = streams
          ? await response.body?.cancel()
          : ((await response.json()) as { detail?: string });
        expect({ status: response.status, body }).toMatchObject({ status });
        if (status >= 400) expect(body).toEqual({ detail: expect.stringMatching(/\.$|…$/) });
      });
    }
  });
}

test("no key, an unknown one, a revoked one and an ill-formed one get the same answer, byte for byte", async () => {
  const answers = await Promise.all(
    [
      "Bearer",
      "Bearer ",
      "Bearer x",
      `Bearer ${held.revoked}`,
      `Bearer ${held.unknown}`,
      `Basic ${held.unlocked}`,
      "",
    ]
      .map((authorization) => api.call("/v1/me", { headers: { authorization } }))
      .concat(api.call("/v1/me"))
      .map(async (answer) => {
        const { status, headers } = await answer;
        return [status, headers.get("www-authenticate"), await (await answer).text()].join("|");
      }),
  );
  expect(new Set(answers).size).toBe(1);
  expect(answers[0]).toStartWith("401|Bearer|");
});

test("a locked key gets the same answer for a namespace that exists and for one that does not", async () => {
  const look = async (namespace: string) => {
    const { status, headers, ...response } = await api.call("/v1/files", { key: held.locked!, namespace });
    const rest = [...headers].filter(([name]) => name !== "x-request-id" && name !== "date");
    return JSON.stringify([status, rest, response]);
  };
  expect(await look("existing")).toBe(await look("nothing-of-this-name"));
});

test("a locked key's namespace is decided without asking what exists", async () => {
  const before = await api.namespaces.list(ws as never);
  await api.call("/write", { key: held.locked!, namespace: "unmade", json: write.json });
  expect((await api.namespaces.list(ws as never)).map(({ name }) => name)).toEqual(
    before.map(({ name }) => name),
  );
});

test("what is read or refused makes no namespace; what is written does", async () => {
  const names = async () => (await api.namespaces.list(ws as never)).map(({ name }) => name);
  await api.call("/v1/files", { key: held.unlocked!, namespace: "new-one" });
  await api.call("/write", { key: held.unlocked!, namespace: "new-one", json: { path: 1 } });
  expect(await names()).not.toContain("new-one");
  await api.call("/write", { key: held.unlocked!, namespace: "new-one", json: write.json });
  expect(await names()).toContain("new-one");
});

test("a workspace's namespaces are its own, of whatever name", async () => {
  await api.call("/write", { key: held.unlocked!, namespace: "same", json: { path: "mine", content: "" } });
  const key = await api.keys.create(
    { workspaceId: foreign as never, name: "k", scope: "workspace", namespace: null },
    APPLIANCE,
  );
  const other = await api.call("/v1/files", { key: key.apiKey, namespace: "same" });
  expect(await other.json()).toEqual({ entries: [] });
  const mine = await api.call("/v1/files", { key: held.unlocked!, namespace: "same" });
  expect(await mine.json()).toEqual({ entries: ["mine"] });
});
