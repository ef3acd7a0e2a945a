import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createContexts } from "../../../src/api/http/context.ts";
import { createApp } from "../../../src/api/http/app.ts";
import { createAccess } from "../../../src/api/auth.ts";
import { execRoutes } from "../../../src/api/exec.ts";
import { createLimits } from "../../../src/api/http/limits.ts";
import { configSchema } from "../../../src/config/schema.ts";
import { AppError } from "../../../src/errors.ts";
import { keyId, namespaceId, workspaceId, type KeyId, type NamespaceId } from "../../../src/ids.ts";
import { createCalls, type Calls } from "../../../src/keys/calls.ts";
import { createLog } from "../../../src/log.ts";
import { listenForSandboxes, type Connections } from "../../../src/sandbox/connections.ts";
import { createExec, type Exec } from "../../../src/sandbox/exec.ts";
import { createSandboxdClient, type SandboxdClient } from "../../../src/sandbox/sandboxd-client.ts";
import { allEvents, openIntents } from "../../fixtures/chain.ts";
import { FakeSandboxd } from "../../fixtures/fake-sandboxd.ts";
import { startLedger } from "../../fixtures/ledger.ts";
import { until } from "../../fixtures/until.ts";

const log = createLog("test", () => {});
const KEY = "trove-sk-test";
let dir: string;
let connections: Connections;
let sandboxd: FakeSandboxd;
let client: SandboxdClient;
let exec: Exec;
let started: Awaited<ReturnType<typeof startLedger>>;
let server: Bun.Server<undefined>;
let calls: Calls;
let holder: KeyId;
/** Namespaces that calls made. */
let made: Map<string, NamespaceId>;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "cd-"));
  connections = listenForSandboxes({ path: join(dir, "sb"), trustedUid: 0, peerUid: () => 0, log });
  sandboxd = new FakeSandboxd({ path: join(dir, "sd"), sandboxesPath: join(dir, "sb") });
  sandboxd.start();
  client = createSandboxdClient({ path: join(dir, "sd"), log });
  const config = configSchema.parse({
    exec: { timeout_s: 1, output_mb: 1, per_namespace: 1, concurrency: 2, queue: 0 },
  });
  exec = createExec({ config, sandboxd: client, connections, log });
  made = new Map();
  started = await startLedger({ dir });
  const workspace = workspaceId.make();
  calls = createCalls();
  holder = keyId.make();
  const caller = {
    scope: "workspace",
    workspaceId: workspace,
    keyId: holder,
    keyName: "k",
    lockedNamespace: null,
  } as const;
  const contexts = createContexts();
  const access = createAccess({
    keys: {
      authenticate: async (key) => (key === KEY ? caller : null),
      holder: async () => null,
      isRevoked: () => false,
    },
    namespaces: {
      find: async (_workspace, name) => made.get(name) ?? null,
      ensure: async (_workspace, name) => {
        const id = made.get(name) ?? namespaceId.make();
        made.set(name, id);
        return id;
      },
      isEnding: () => false,
    },
    workspaces: { exists: async () => true },
    calls,
    contexts,
    limits: createLimits({ rates: () => config.rate }),
    operator: false,
  });
  const app = createApp({ routes: [execRoutes({ access, exec, ledger: started.ledger })], log, contexts });
  server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: (request) => app.fetch(request) });
});

afterEach(async () => {
  await server.stop(true);
  await exec.close();
  client.close();
  sandboxd.stop();
  connections.close();
  await started.close();
  rmSync(dir, { recursive: true });
});

interface Post {
  path?: string;
  key?: string;
  namespace?: string;
  signal?: AbortSignal;
}

function post(
  body: string | Uint8Array<ArrayBuffer>,
  { path = "/v1/exec", key = KEY, namespace = "alice", signal }: Post = {},
) {
  return fetch(new URL(path, server.url), {
    method: "POST",
    body,
    headers: { authorization: `Bearer ${key}`, "x-namespace": namespace },
    ...(signal === undefined ? {} : { signal }),
  });
}

const command = (text: string, more: object = {}): string => JSON.stringify({ command: text, ...more });

describe("POST /v1/exec", () => {
  test("runs a command, with and without stdin, and makes its namespace", async () => {
    const answer = await post(command("cat\nout done\nerr hm\nexit 2", { stdin: "héllo\n" }));
    expect(answer.status).toBe(200);
    expect(answer.headers.get("content-type")).toStartWith("application/json");
    expect(await answer.json()).toMatchObject({
      exit_code: 2,
      stdout: "héllo\ndone\n",
      stderr: "hm\n",
      oom: false,
    });
    const without = await post(command("cat", { stdin: null }));
    expect(await without.json()).toMatchObject({ exit_code: 0, stdout: "" });
    expect([...made.keys()]).toEqual(["alice"]);
  });

  test("long output arrives whole, and is cut at the cap", async () => {
    const answer = await post(command("fill 2000000"));
    const { stdout, ...rest } = (await answer.json()) as { stdout: string };
    expect(stdout === "x".repeat(1024 * 1024)).toBe(true);
    expect(rest).toMatchObject({ stdout_truncated: true, stderr_truncated: false });
  });

  test.each<[number, string, string | Uint8Array<ArrayBuffer>]>([
    [400, "no JSON", "{"],
    [415, "not UTF-8", Uint8Array.of(123, 255, 125)],
    [422, "no command", "{}"],
    [422, "a command that is no string", command([] as unknown as string)],
    [422, "stdin that is no string", command("", { stdin: 5 })],
    [422, "half of a surrogate pair", '{"command":"out \\ud800"}'],
    [400, "a NUL in the command", command("out \0")],
    [413, "a command of over 128 KiB", command("x".repeat(128 * 1024 + 1))],
    [413, "stdin of over 1 MiB", command("cat", { stdin: "x".repeat(1024 * 1024 + 1) })],
    [413, "a body that nothing valid needs", `${" ".repeat(9 * 1024 * 1024)}{}`],
  ])("%d for %s, with a sentence, and nothing runs", async (status, _what, body) => {
    const answer = await post(body);
    expect(answer.status).toBe(status);
    expect(await answer.json()).toEqual({ detail: expect.stringMatching(/^[A-Z].*\.$/) });
    expect([sandboxd.booted, made.size]).toEqual([0, 0]);
  });

  test("the longest stdin passes even when every byte of it is escaped", async () => {
    const escaped = `{"command":"cat","stdin":"${"\\u0001".repeat(1024 * 1024)}"}`;
    const { stdout } = (await (await post(escaped)).json()) as { stdout: string };
    expect(stdout === "\u0001".repeat(1024 * 1024)).toBe(true);
  });

  test("401 without a key, before the body is looked at", async () => {
    expect((await post("{", { key: "other" })).status).toBe(401);
  });

  test("408 over the wall clock; 429 and Retry-After when it is the namespace's turn to wait", async () => {
    const slow = post(command("sleep 60000"));
    await until(() => exec.stats().running === 1);
    const refused = await post(command("out x"));
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([429, "1"]);
    expect((await slow).status).toBe(408);
    expect((await post(command("out x"))).status).toBe(200);
  });

  test("429 leaves no namespace behind", async () => {
    const slow = [post(command("sleep 60000")), post(command("sleep 60000"), { namespace: "bob" })];
    await until(() => exec.stats().running === 2);
    expect((await post(command("out x"), { namespace: "carol" })).status).toBe(429);
    expect([...made.keys()].sort()).toEqual(["alice", "bob"]);
    await Promise.all(slow);
    expect((await post(command("out x"), { namespace: "carol" })).status).toBe(200);
    expect(made.has("carol")).toBe(true);
  });

  test("503 with Retry-After when sandboxd is away, 502 when the sandbox is lost", async () => {
    sandboxd.stop();
    const away = await post(command("out x"));
    expect([away.status, away.headers.get("retry-after")]).toEqual([503, "2"]);
    sandboxd.start();
    const lost = await post(command("die"));
    expect(lost.status).toBe(502);
    expect(await lost.json()).toEqual({
      detail: "The command may have run, but its sandbox ended before it did.",
    });
  });
});

describe("POST /exec", () => {
  test("answers in plain text", async () => {
    const good = await post(command("out hi\nerr no"), { path: "/exec" });
    expect(good.headers.get("content-type")).toBe("text/plain; charset=utf-8");
    expect(await good.text()).toBe("hi\n");
    const bad = await post(command("out hi\nerr no\nexit 9"), { path: "/exec" });
    expect([bad.status, await bad.text()]).toEqual([200, "[exit 9]\nno\nhi\n"]);
  });
});

describe("its event", () => {
  /** The one event, when nothing is left announced. */
  async function event() {
    const deadline = performance.now() + 5_000;
    while ((await openIntents(started.db)) > 0 && performance.now() < deadline) await Bun.sleep(2);
    const [only, ...more] = await allEvents(started.db);
    expect([more, await openIntents(started.db)]).toEqual([[], 0]);
    return only;
  }

  test("says what ran, how it ended and how its output begins, and who asked", async () => {
    const text = "cat\nout done\nerr hm\nexit 2";
    const answer = await post(command(text, { stdin: "héllo\n" }));
    const { duration_ms } = (await answer.json()) as { duration_ms: number };
    const found = await event();
    expect(found).toMatchObject({ type: "exec.completed", namespace: "alice", actor_key_id: holder });
    expect(found?.data).toEqual({
      command: text,
      ended: "exited",
      exit_code: 2,
      duration_ms,
      stdout: "héllo\ndone\n",
      timed_out: false,
      error: null,
    });
  });

  test("has the first 4 KiB of the command and the first 1 KiB of its output, cut at a character", async () => {
    // Both limits fall into the middle of an é, which has two bytes.
    const text = `out x${"é".repeat(3000)}`;
    await post(command(`cat\n${text}`, { stdin: `x${"é".repeat(2000)}` }));
    const data = (await event())?.data;
    expect(data?.["command"]).toBe(`cat\nout x${"é".repeat(2043)}`);
    expect(data?.["stdout"]).toBe(`x${"é".repeat(511)}`);
  });

  test("is told of one that ran too long", async () => {
    expect((await post(command("out begun\nsleep 60000"))).status).toBe(408);
    expect((await event())?.data).toMatchObject({
      ended: "timed_out",
      timed_out: true,
      exit_code: 137,
      stdout: "begun\n",
      error: expect.stringContaining("longer than 1 s"),
    });
  });

  test("is told of one whose sandbox was lost", async () => {
    expect((await post(command("out some\ndie"))).status).toBe(502);
    expect((await event())?.data).toMatchObject({
      ended: "lost",
      exit_code: null,
      stdout: "",
      error: expect.stringContaining("may have run"),
    });
  });

  test("is told of one that ran out of memory", async () => {
    const running = post(command("sleep 60000"));
    await until(() => sandboxd.of(made.get("alice")!)?.[1].init.runs === 1);
    sandboxd.crash(made.get("alice")!, { oom: true });
    expect((await running).status).toBe(200);
    expect((await event())?.data).toMatchObject({ ended: "out_of_memory", exit_code: 137, error: null });
  });

  test("is told of one that its caller left, and of one whose key was revoked, with the reason", async () => {
    const caller = new AbortController();
    const left = post(command("sleep 900"), { signal: caller.signal }).catch(() => "hung up");
    await until(() => made.has("alice") && sandboxd.of(made.get("alice")!)?.[1].init.runs === 1);
    caller.abort();
    expect(await left).toBe("hung up");
    await until(() => exec.stats().running === 0);
    expect((await event())?.data).toMatchObject({ ended: "killed", error: "The client hung up." });

    const cut = post(command("sleep 900"));
    await until(() => sandboxd.of(made.get("alice")!)?.[1].init.runs === 2);
    calls.endOfKey(holder, new AppError("sandbox_lost", "The key of this call was revoked."));
    expect((await cut).status).toBe(502);
    const second = (await allEvents(started.db))[1];
    expect(second?.data).toMatchObject({ ended: "killed", error: "The key of this call was revoked." });
  });

  test("there is none of a command that was refused, found no turn or could not be sent", async () => {
    expect((await post(command("x".repeat(200_000)))).status).toBe(413);
    expect((await post(command("a\0b"))).status).toBe(400);
    expect((await post("{")).status).toBe(400);
    sandboxd.failNext = { code: "unavailable", detail: "no memory" };
    expect((await post(command("out x"))).status).toBe(503);
    expect(await event()).toBeUndefined();
    const slow = post(command("sleep 900"));
    await until(() => exec.stats().running === 1);
    expect((await post(command("out x"))).status).toBe(429);
    await slow;
    expect((await event())?.data["command"]).toBe("sleep 900");
  });
});
