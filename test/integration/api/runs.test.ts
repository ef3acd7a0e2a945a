import { afterAll, beforeAll, expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { createAccess } from "../../../src/api/auth.ts";
import { createApp } from "../../../src/api/http/app.ts";
import { createContexts } from "../../../src/api/http/context.ts";
import { createLimits } from "../../../src/api/http/limits.ts";
import { createRunCalls } from "../../../src/api/run-call.ts";
import { runRoutes, type RunRoutesParts } from "../../../src/api/runs.ts";
import { AppError } from "../../../src/errors.ts";
import { configSchema } from "../../../src/config/schema.ts";
import { namespaces as namespaceTable } from "../../../src/db/schema.ts";
import { keyId, namespaceId, runId, workspaceId, type KeyId, type NamespaceId } from "../../../src/ids.ts";
import { createCalls } from "../../../src/keys/calls.ts";
import type { KeyHolder } from "../../../src/keys/caller.ts";
import { createLog } from "../../../src/log.ts";
import { createSnapshotRows } from "../../../src/snapshots/rows.ts";
import { runsFixture } from "../../fixtures/runs.ts";
import { until } from "../../fixtures/until.ts";

const log = createLog("test", () => {});
let fixture: Awaited<ReturnType<typeof runsFixture>>;
let app: ReturnType<typeof createApp>;
const ids = new Map<string, NamespaceId>();
let keys: Record<string, KeyHolder>;
const calls = createCalls();
const revoked = new Set<KeyId>();
/** What happens between a request's check and its run's row. */
const meanwhile = { happens: async (): Promise<void> => {} };

beforeAll(async () => {
  fixture = await runsFixture({ policy: { limits: { timeout_s: 100 } } });
  const { workspaceId: workspace } = fixture;
  ids.set("mine", fixture.namespace);
  await addNamespace("other");
  const holder = (values: Partial<KeyHolder>): KeyHolder => ({
    scope: "workspace",
    workspaceId: workspace,
    keyId: fixture.key,
    keyName: "k",
    lockedNamespace: null,
    ...values,
  });
  keys = {
    workspace: holder({}),
    admin: holder({ scope: "admin", keyId: keyId.make() }),
    mine: holder({ lockedNamespace: "mine" }),
    other: holder({ lockedNamespace: "other" }),
    brief: holder({ keyId: await fixture.addKey() }),
    briefer: holder({ keyId: await fixture.addKey() }),
    nowhere: holder({ lockedNamespace: "nowhere" }),
    stranger: holder({ workspaceId: workspaceId.make(), keyId: keyId.make() }),
    strangeAdmin: holder({ scope: "admin", workspaceId: workspaceId.make(), keyId: keyId.make() }),
  };
  const contexts = createContexts();
  const namespaces = {
    find: async (of: string, name: string) => (of === workspace ? (ids.get(name) ?? null) : null),
    ensure: async (_: string, name: string) => ids.get(name) ?? (await addNamespace(name)),
    isEnding: () => false,
  };
  const config = configSchema.parse({});
  const access = createAccess({
    keys: {
      async authenticate(key) {
        const holder = keys[key];
        return holder === undefined || revoked.has(holder.keyId) ? null : holder;
      },
      holder: async () => null,
      isRevoked: (id) => revoked.has(id),
    },
    namespaces,
    workspaces: { exists: async () => true },
    calls,
    contexts,
    limits: createLimits({ rates: () => config.rate }),
    operator: false,
  });
  const { rows, db } = fixture;
  const runCalls = createRunCalls({ access, rows, namespaces });
  const runs: RunRoutesParts["runs"] = {
    check: fixture.runs.check.bind(fixture.runs),
    async start(...args) {
      await meanwhile.happens();
      return fixture.runs.start(...args);
    },
    cancel: fixture.runs.cancel.bind(fixture.runs),
  };
  const snapshots = createSnapshotRows(db);
  app = createApp({
    log,
    contexts,
    routes: [runRoutes({ access, calls: runCalls, runs, rows, namespaces, snapshots })],
  });
});
afterAll(async () => fixture[Symbol.asyncDispose]());

async function addNamespace(name: string): Promise<NamespaceId> {
  const id = namespaceId.make();
  const { workspaceId: workspace, db } = fixture;
  const now = Date.now();
  await db
    .insert(namespaceTable)
    .values({ id, workspaceId: workspace, name, createdAt: now, lastUsedAt: now });
  ids.set(name, id);
  return id;
}

interface Answer {
  readonly status: number;
  readonly text: string;
  readonly json: Record<string, never> & {
    detail: string;
    run_id: string;
    runs: { run_id: string }[];
    next_cursor: string | null;
  };
}

async function call(
  key: string,
  method: string,
  path: string,
  { namespace, json }: { namespace?: string; json?: unknown } = {},
): Promise<Answer> {
  const headers = new Headers({ authorization: `Bearer ${key}` });
  if (namespace !== undefined) headers.set("x-namespace", namespace);
  const body = json === undefined ? {} : { body: JSON.stringify(json) };
  const answer = await app.fetch(new Request(`http://api${path}`, { method, headers, ...body }));
  const text = await answer.text();
  return { status: answer.status, text, json: JSON.parse(text) as Answer["json"] };
}

const wish = { command: "true", worktree: { from: "empty" } };
const start = async (key: string, namespace?: string, json: unknown = wish) =>
  call(key, "POST", "/v1/runs", { json, ...(namespace === undefined ? {} : { namespace }) });

test("a run is answered as the contract has it", async () => {
  const { status, json } = await start("workspace", "mine", {
    ...wish,
    label: "nightly",
    env: { A: "hidden" },
  });
  const id = runId.schema.parse(json.run_id);
  expect(status).toBe(201);
  expect(json as object).toMatchObject({
    run_id: expect.stringMatching(/^run-[a-z2-7]{10}$/),
    namespace: "mine",
    status: "queued",
    label: "nightly",
    exit_code: null,
    error: null,
    started_at: null,
    finished_at: null,
    usage: { llm: { requests: 0, usd: 0, by_model: {} }, peak_memory_mb: null, cpu_s: null },
    denials: [],
    worktree: { from: "empty" },
    limits: { timeout_s: 100, memory_mb: 2560, cpus: 2, pids: 512, disk_mb: 4096 },
  });
  await fixture.launched(id);
  fixture.gateway.record(id, { kind: "denied", lane: "egress", reason: "host", detail: "d", count: 3 });
  fixture.host.exit(id, 0);
  await fixture.settled(id);
  const over = await call("workspace", "GET", `/v1/runs/${id}`);
  expect(over.json as object).toMatchObject({
    status: "succeeded",
    exit_code: 0,
    started_at: expect.stringMatching(/^\d{4}-.*Z$/),
    usage: { peak_memory_mb: 64, cpu_s: 1.5 },
    denials: [{ kind: "egress", reason: "host", count: 3, at: expect.stringMatching(/Z$/) }],
    timings: { run_ms: expect.any(Number), finish_ms: expect.any(Number) },
  });
  expect(over.text).not.toMatch(/hidden|sk-ant|usd_nano/);
});

test("who may start: a workspace key anywhere, a locked key at home, an admin nowhere", async () => {
  expect((await start("workspace")).status).toBe(400);
  expect((await start("workspace", "mine")).status).toBe(201);
  expect((await start("mine")).status).toBe(201);
  expect((await start("mine", "mine")).status).toBe(201);
  expect((await start("mine", "other")).status).toBe(403);
  expect((await start("admin", "mine")).status).toBe(403);
  expect((await start("nobody", "mine")).status).toBe(401);
});

test("to those who may not see it, a run is the same as one that never was", async () => {
  const id = (await start("mine")).json.run_id;
  const never = runId.make();
  const about = ({ status, text }: Answer) => [status, text.replace(/run-[a-z2-7]{10}/, "RUN")];
  for (const key of ["other", "nowhere", "stranger"]) {
    for (const [method, path] of [
      ["GET", ""],
      ["POST", "/cancel"],
    ] as const) {
      const theirs = await call(key, method, `/v1/runs/${id}${path}`);
      expect(theirs.status).toBe(404);
      expect(about(theirs)).toEqual(about(await call(key, method, `/v1/runs/${never}${path}`)));
    }
  }
  expect((await call("workspace", "GET", `/v1/runs/${id}`, { namespace: "other" })).status).toBe(404);
  expect((await call("workspace", "GET", "/v1/runs/not-an-id")).status).toBe(404);
  // What no text can be spelled as names no run either.
  for (const [method, path] of [
    ["GET", "/v1/runs/%ff"],
    ["GET", "/v1/runs/%"],
    ["POST", "/v1/runs/%c3/cancel"],
  ] as const) {
    const { status, json } = await call("workspace", method, path);
    expect([status, json.detail]).toEqual([404, `There is nothing at ${method} ${path}.`]);
  }
  expect((await call("mine", "GET", `/v1/runs/${id}`, { namespace: "other" })).status).toBe(403);
  // The control.
  for (const key of ["mine", "workspace"])
    expect((await call(key, "GET", `/v1/runs/${id}`)).status).toBe(200);
});

test("an admin key lists and cancels, and reads no run", async () => {
  const id = (await start("mine")).json.run_id;
  expect((await call("admin", "GET", `/v1/runs/${id}`)).status).toBe(403);
  expect((await call("strangeAdmin", "POST", `/v1/runs/${id}/cancel`)).status).toBe(404);
  expect((await call("admin", "POST", `/v1/runs/${id}/cancel`)).status).toBe(200);
  expect((await fixture.settled(runId.schema.parse(id))).status).toBe("cancelled");
  const again = await call("admin", "POST", `/v1/runs/${id}/cancel`);
  expect([again.status, again.text.includes('"status":"cancelled"')]).toEqual([200, true]);
});

test("lists hold what their caller may see, by pages, and by status", async () => {
  const there = await start("workspace", "other");
  const listed = async (key: string, query = "", namespace?: string) => {
    const answer = await call(key, "GET", `/v1/runs${query}`, namespace === undefined ? {} : { namespace });
    expect(answer.status).toBe(200);
    return answer.json;
  };
  const all = (await listed("admin", "?limit=200")).runs.map(({ run_id }) => run_id);
  const [mine, other] = [await listed("mine", "?limit=200"), await listed("other")];
  expect(other.runs.map(({ run_id }) => run_id)).toEqual([there.json.run_id]);
  expect(new Set(all)).toEqual(new Set([...mine.runs, ...other.runs].map(({ run_id }) => run_id)));
  expect((await listed("workspace", "", "other")).runs).toHaveLength(1);
  expect((await listed("admin", "", "other")).runs).toHaveLength(1);
  expect((await listed("nowhere")).runs).toEqual([]);
  expect((await listed("strangeAdmin")).runs).toEqual([]);
  expect((await call("workspace", "GET", "/v1/runs")).status).toBe(400);
  const paged: string[] = [];
  for (let cursor: string | null = ""; cursor !== null;) {
    const page = await listed("admin", `?limit=2${cursor === "" ? "" : `&cursor=${cursor}`}`);
    paged.push(...page.runs.map(({ run_id }) => run_id));
    cursor = page.next_cursor;
  }
  expect(paged).toEqual(all);
  await until(async () => (await listed("admin", "?status=cancelled,queued")).runs.length > 0);
  for (const query of ["?status=gone", "?limit=0", "?limit=201", "?cursor=x", "?status=failed&status=error"])
    expect((await call("admin", "GET", `/v1/runs${query}`)).status).toBe(422);
});

test("what is wrong with a request is named, and then nothing was made", async () => {
  const before = (await call("admin", "GET", "/v1/runs?limit=200")).json.runs.length;
  const cases: readonly (readonly [object, number, string])[] = [
    [{}, 422, "command"],
    [{ command: "a", agent: { kind: "codex", prompt: "b" } }, 422, "command"],
    [{ command: "a", comand: 1 }, 422, "comand"],
    [{ command: "a\0b" }, 422, "command"],
    [{ command: "a", llm: { credential: "c", models: [] } }, 422, "models"],
    [{ command: "a", env: { PATH: "/x" } }, 422, "env.PATH"],
    [{ command: "a", env: { ANTHROPIC_API_KEY: "/x" } }, 422, "env.ANTHROPIC_API_KEY"],
    [{ command: "a", env: { "a-b": "/x" } }, 422, "env.a-b\": expected a variable's name"],
    [{ command: "a", env: JSON.parse('{ "__proto__": "x" }') as object }, 422, "env.__proto__"],
    [{ command: "a", env: { BIG: "x".repeat(128 * 1024) } }, 422, "env.BIG"],
    [{ command: "ü".repeat(70_000) }, 422, "command"],
    [{ command: "a", stdin: "x", stdin_open: true }, 422, "stdin"],
    [{ command: "a", limits: { timeout_s: 101 } }, 422, "limits.timeout_s"],
    [{ command: "a", limits: { memory: 1 } }, 422, "limits"],
    [{ command: "a", limits: { cpus: 64 } }, 422, "limits.cpus"],
    [{ command: "a", worktree: { from: "elsewhere" } }, 422, "worktree"],
    [
      { command: "a", worktree: { from: "snapshot", snapshot_id: "snap-aaaaaaaaaaaaaaaa" } },
      422,
      "worktree.snapshot_id",
    ],
    [{ command: "a", on_success: "run" }, 422, "on_success"],
    [{ command: "a", worktree: { from: "x" } }, 422, 'expected "namespace" or "snapshot" or "empty"'],
    [{ command: "a", egress: { direct: ["example.org:1"] } }, 422, "egress.direct"],
  ];
  for (const [body, status, named] of cases) {
    const answer = await start("workspace", "fresh", body);
    expect([named, answer.status, answer.json.detail.includes(named)]).toEqual([named, status, true]);
  }
  expect(ids.has("fresh")).toBe(false);
  expect((await call("admin", "GET", "/v1/runs?limit=200")).json.runs).toHaveLength(before);
});

/** As src/keys/keys.ts does. */
async function revoke(name: string): Promise<void> {
  const { keyId: id } = keys[name] as KeyHolder;
  await fixture.revokeKey(id);
  revoked.add(id);
  calls.endOfKey(id, new AppError("sandbox_lost", "The key of this call was revoked while it ran."));
}

test("a key that is revoked while it starts a run gets what a revoked key gets, and nothing is left", async () => {
  const before = (await call("admin", "GET", "/v1/runs?limit=200")).json.runs.length;
  const unknown = await start("nobody", "mine");
  expect(unknown.status).toBe(401);

  // Between the check of its request and the run's row.
  meanwhile.happens = async () => revoke("brief");
  expect(await start("brief", "mine")).toEqual(unknown);
  meanwhile.happens = async () => {};

  // While its body is on its way: the namespace is not made either.
  const body = new ReadableStream({
    async pull(controller) {
      await revoke("briefer");
      controller.enqueue(Buffer.from(JSON.stringify(wish)));
      controller.close();
    },
  });
  const headers = { authorization: "Bearer briefer", "x-namespace": "unmade" };
  const answer = await app.fetch(new Request("http://api/v1/runs", { method: "POST", headers, body }));
  expect([answer.status, await answer.text()]).toEqual([401, unknown.text]);
  expect(ids.has("unmade")).toBe(false);

  expect((await call("admin", "GET", "/v1/runs?limit=200")).json.runs).toHaveLength(before);
  expect(fixture.runs.stats().waiting).toBe(0);
  // The place that they had is free again, and works for whoever has a key.
  expect((await start("workspace", "mine")).status).toBe(201);
});

test("a namespace that is deleted while a run is started in it: a conflict, and nothing is left", async () => {
  const before = (await call("admin", "GET", "/v1/runs?limit=200")).json.runs.length;
  const id = await addNamespace("brief");
  meanwhile.happens = async () => {
    await fixture.db.update(namespaceTable).set({ deletingAt: Date.now() }).where(eq(namespaceTable.id, id));
  };
  const refused = await start("workspace", "brief");
  meanwhile.happens = async () => {};
  expect(refused).toMatchObject({
    status: 409,
    json: { detail: expect.stringContaining("is being deleted") },
  });
  expect((await call("admin", "GET", "/v1/runs?limit=200")).json.runs).toHaveLength(before);
});
