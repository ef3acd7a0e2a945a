import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { startApi } from "../../../src/api/role.ts";
import { loadConfig } from "../../../src/config/load.ts";
import { instanceLayout } from "../../../src/instance/instance.ts";

/* The role put together for real, with the other two away; in a throw-away copy, since it gives files to the tenant's uid. */
const instance = instanceLayout(mkdtempSync("/scratch/role-"), "a91d");
const logged: { message: string; fields: unknown }[] = [];
/** The access log. */
const lines: string[] = [];
const note = (message: string, fields?: unknown) => void logged.push({ message, fields });
const log = { info: note, warn: note, error: note };
const load = (env: Record<string, string> = {}) =>
  loadConfig({ env: { COFFERDAM_HTTP_LISTEN: "127.0.0.1:0", ...env } });

let api: Awaited<ReturnType<typeof startApi>>;
let keys: Record<string, string>;

const start = () =>
  startApi({
    bootId: crypto.randomUUID(),
    instance,
    secret: new Uint8Array(32).fill(7),
    loaded: load(),
    log,
    stderr: { write: (line) => void lines.push(line), flush() {}, lost: () => 0 },
    confinement: () => [{ name: "api confined", status: "ok", detail: "for the test", fix: null }],
    bucketCredential: () => null,
    onSlowStart() {},
    onLost() {},
  });
const admin = async (path: string, method = "GET") =>
  (await fetch(`http://admin${path}`, { unix: instance.sockets.admin, method })).json() as Promise<
    Record<string, unknown>
  >;
const call = (path: string, init: RequestInit = {}) =>
  fetch(`http://${api.listen}${path}`, {
    ...init,
    headers: { authorization: `Bearer ${keys["workspace_key"]}`, "x-namespace": "alice" },
  });

beforeAll(async () => {
  for (const dir of [instance.api.state, dirname(instance.sockets.admin)])
    mkdirSync(dir, { recursive: true });
  api = await start();
  keys = (await admin("/admin/setup", "POST")) as Record<string, string>;
  await admin("/admin/setup/confirm", "POST");
});
afterAll(() => api.stop());

test("it answers its own check, and files work without sandboxd", async () => {
  await api.check();
  const written = await call("/write", {
    method: "POST",
    body: JSON.stringify({ path: "a/b", content: "kept" }),
  });
  expect(await written.json()).toEqual({ path: "workspace/a/b", size_bytes: 4 });
  expect(await (await call("/files/a/b")).text()).toBe("kept");
});

test("a command waits for sandboxd with 503 and Retry-After", async () => {
  const refused = await call("/v1/exec", { method: "POST", body: JSON.stringify({ command: "true" }) });
  expect([refused.status, refused.headers.has("retry-after")]).toEqual([503, true]);
});

test("status and doctor say which role is away, and what to do", async () => {
  expect(await admin("/admin/status")).toMatchObject({
    instance: "a91d",
    listen: api.listen,
    notices: ["files at rest are not encrypted by Cofferdam: use an encrypted disk"],
    sandboxes: expect.stringContaining("not answering"),
  });
  const { checks } = (await admin("/admin/doctor")) as {
    checks: { name: string; status: string; detail: string; fix: string | null }[];
  };
  expect(checks.map(({ name, status }) => `${name}: ${status}`)).toEqual([
    "api confined: ok",
    "database: ok",
    "audit log: ok",
    "store: ok",
    "at rest: warn",
    "proof: ok",
    "gateway: fail",
    "sandboxd: fail",
  ]);
  expect(checks.find(({ name }) => name === "gateway")?.detail).toBe("it does not answer (ENOENT)");
  for (const check of checks) expect(check.fix !== null).toBe(check.status !== "ok");
});

test("a reload takes limits at once and says what waits for a restart", async () => {
  await api.reload(
    load({
      COFFERDAM_QUOTA_NAMESPACES: "1",
      COFFERDAM_HTTP_MAX_UPLOAD_MB: "7",
      COFFERDAM_EXEC_MEMORY_MB: "256",
    }),
  );
  expect(logged).toContainEqual({
    message: "these settings wait for a restart",
    fields: { settings: ["http.max_upload_mb", "exec.memory_mb"] },
  });
  const { settings } = (await admin("/admin/config")) as { settings: unknown[] };
  expect(settings).toContainEqual({
    key: "quota.namespaces",
    value: 1,
    origin: "COFFERDAM_QUOTA_NAMESPACES",
  });
  expect(settings).toContainEqual({
    key: "exec.memory_mb",
    value: 1024,
    origin: "default; 256 waits for a restart (COFFERDAM_EXEC_MEMORY_MB)",
  });
  const headers = { authorization: `Bearer ${keys["workspace_key"]}`, "x-namespace": "bob" };
  const body = JSON.stringify({ path: "a", content: "" });
  const over = await fetch(`http://${api.listen}/write`, { method: "POST", headers, body });
  expect([over.status, await over.json()]).toEqual([
    507,
    { detail: expect.stringContaining("[quota] namespaces") },
  ]);
  await api.reload(load());
});

test("stopped and started again it has the same keys and files, and nobody else may read its database", async () => {
  await api.stop();
  api = await start();
  expect(await admin("/admin/setup", "POST")).toEqual({ created: false });
  expect(await (await call("/files/a/b")).text()).toBe("kept");
  expect(statSync(instance.api.database).mode & 0o077).toBe(0);
  expect(statSync(instance.sockets.admin).mode & 0o777).toBe(0o660);
});
