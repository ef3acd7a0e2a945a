import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { statSync } from "node:fs";
import { join } from "node:path";
import { APPLIANCE } from "../../../../src/audit/event.ts";
import { createContexts } from "../../../../src/api/http/context.ts";
import { listeningOf } from "../../../../src/config/listen.ts";
import { configSchema } from "../../../../src/config/schema.ts";
import { raw, startApi, type TestApi } from "../../../fixtures/api.ts";

const DEFAULTS = configSchema.parse({}).http;
let api: TestApi;
let key: string;
beforeAll(async () => {
  api = await startApi();
  const { id } = await api.workspaces.create("w", APPLIANCE);
  key = (
    await api.keys.create({ workspaceId: id, name: "k", scope: "workspace", namespace: null }, APPLIANCE)
  ).apiKey;
});
afterAll(async () => {
  await api.stop();
  api.remove();
});

async function target(path: string, extra = ""): Promise<{ status: number; body: unknown }> {
  const head = `GET ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${key}\r\nX-Namespace: n\r\n${extra}`;
  const answer = await raw(api.port, `${head}Connection: close\r\n\r\n`);
  const [headers = "", body = ""] = answer.split("\r\n\r\n");
  return { status: Number(headers.split(" ")[1]), body: body === "" ? "" : JSON.parse(body) };
}

describe("a path arrives as it was sent, or is refused", () => {
  const taken: [string, string][] = [
    ["/files/a", "workspace/a"],
    ["/files/a/b", "workspace/a/b"],
    ["/files/workspace/a", "workspace/a"],
    ["/files//workspace/a", "workspace/a"],
    ["/files/%2Fworkspace/a", "workspace/a"],
    ["/files/a%20b", "workspace/a b"],
    ["/files/%C3%A9", "workspace/é"],
    ["/files/a%23b", "workspace/a#b"],
    ["/files/a%3Fb", "workspace/a?b"],
    ["/files/%41", "workspace/A"],
    ["/files/%2541", "workspace/%41"],
    ["/files/..a/b..", "workspace/..a/b.."],
    [`/files/${"d/".repeat(63)}f`, `workspace/${"d/".repeat(63)}f`],
    ["/files/100%", "workspace/100%"],
    ["/files/%zz/a%41%", "workspace/%zz/aA%"],
  ];
  for (const [path, expected] of taken) {
    test(path.slice(0, 40), async () => {
      expect(await target(path)).toEqual({ status: 200, body: { path: expected } });
    });
  }

  const refused = [
    "/files/..",
    "/files/a/../b",
    "/files/100%/../b",
    "/files/100%\\..\\b",
    "/files/../v1/me",
    "/files/%2e%2e/b",
    "/files/.%2E/b",
    "/files/a/%2e%2e",
    "/files/..%2fb",
    "/files/..%5cb",
    "/files/a\\..\\b",
    "/files/..\\..\\v1\\me",
    "/files/a%5c..%5cb",
    "/files/%252e%252e/x",
    "/files/%25252e%25252e/x",
    "/files/./a",
    "/files/a//../b",
    "/files/a//b",
    "/files///workspace/a",
    "/files//etc/passwd",
    "/files/a%00b",
    "/files/a%0ab",
    "/files/%ff",
    "/files/a#b",
    "/files/a#/../b",
    "/files/",
    "/files",
    "/v1/../files/a",
    "/x/../files/a",
    "/v1/%2e%2e/files/a",
    "http://other/files/a/../b",
    `/files/${"d/".repeat(64)}f`,
    `/files/${"d/".repeat(70)}../f`,
  ];
  for (const path of refused) {
    test(JSON.stringify(path.slice(0, 40)), async () => {
      const { status, body } = await target(path);
      // The last resort is no answer to a file call at all.
      expect([400, 404]).toContain(status);
      expect(body).toEqual({ detail: expect.any(String) });
      if (status === 404) expect(path).not.toStartWith("/files/");
    });
  }

  test("all refusals say the same", async () => {
    const details = await Promise.all(
      ["/files/a/../b", "/files/%252e%252e/x", "/files/a\\b", "/files/a%00", "/files/%ff"].map((path) =>
        target(path),
      ),
    );
    expect(new Set(details.map((answer) => JSON.stringify(answer))).size).toBe(1);
  });
});

describe("requests", () => {
  test("two Authorization, X-Namespace or Host headers", async () => {
    expect((await target("/v1/files", `Authorization: Bearer ${key}\r\n`)).status).toBe(401);
    expect((await target("/v1/files", "X-Namespace: m\r\n")).status).toBe(400);
    expect((await target("/v1/files", "Host: y\r\n")).status).toBe(400);
    expect((await target("/v1/files")).status).toBe(200);
  });

  test("a Host that is none, or one that would change the path", async () => {
    const hosts = ["", "a b", "a/v1", "a/files/..", "a?", "a#", "a@b", "a:99999999", "a:b", "[::1", "é"];
    // These have the form of one, and still no URL can.
    hosts.push("a:99999", "1.2.3.4.5", "256.256.256.256", "[::::]", "xn--a");
    for (const host of hosts) {
      for (const path of ["/healthz", "/files/a", "/files/a/../b", "/nothing"]) {
        const answer = await raw(
          api.port,
          `GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`,
        );
        expect([host, path, answer]).toEqual([host, path, expect.stringMatching(/^HTTP\/1\.1 400/)]);
      }
    }
    expect(await raw(api.port, "GET /healthz HTTP/1.0\r\n\r\n")).toContain("Send one Host header");
    for (const host of [
      "localhost",
      "localhost:80",
      "127.0.0.1:8080",
      "[::1]:8080",
      "a_b.example.com",
      "x",
    ]) {
      const answer = await raw(
        api.port,
        `GET /healthz HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`,
      );
      expect(answer).toStartWith("HTTP/1.1 200");
    }
  });

  test("a body that nobody reads is never taken for a request", async () => {
    const inner = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    const last = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    const length = `Content-Length: ${inner.length}\r\n\r\n${inner}`;
    const chunked = `Transfer-Encoding: chunked\r\n\r\n${inner.length.toString(16)}\r\n${inner}\r\n0\r\n\r\n`;
    const large = `Content-Length: 5000000\r\n\r\n${inner.repeat(5_000_000 / inner.length + 1).slice(0, 5_000_000)}`;
    const head = `Host: x\r\nAuthorization: Bearer ${key}\r\nX-Namespace: n\r\n`;
    for (const [start, first] of [
      [`POST /write HTTP/1.1\r\nHost: x\r\n${length}`, 401],
      [`POST /nothing HTTP/1.1\r\nHost: x\r\n${chunked}`, 404],
      [`PUT /files/a/../b HTTP/1.1\r\n${head}${length}`, 400],
      [`DELETE /write HTTP/1.1\r\n${head}${chunked}`, 405],
      [`POST /write HTTP/1.1\r\n${head}${large}`, 413],
    ] as const) {
      const statuses = (await raw(api.port, start + last)).matchAll(/HTTP\/1\.1 (\d+)/g);
      expect([...statuses].map((match) => Number(match[1]))).toEqual([first, 404]);
    }
  });

  test("an unknown path, a wrong method", async () => {
    expect(await (await api.call("/nothing")).json()).toEqual({
      detail: "There is nothing at GET /nothing.",
    });
    const wrong = await api.call("/v1/files", { method: "DELETE" });
    expect([wrong.status, wrong.headers.get("allow")]).toEqual([405, "GET, HEAD"]);
    expect(await wrong.json()).toEqual({ detail: "DELETE does not work here; use GET, HEAD." });
    expect((await api.call("/v1/files/", { key, namespace: "n" })).status).toBe(404);
  });

  const post = (body: RequestInit["body"], headers: Record<string, string> = {}) =>
    fetch(`http://127.0.0.1:${api.port}/write`, {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, "x-namespace": "n", ...headers },
      body,
    });

  test("bodies that are no JSON, or not of the shape", async () => {
    const cases: [RequestInit["body"], number, RegExp][] = [
      ["", 400, /JSON/],
      ["{", 400, /JSON/],
      [new Uint8Array([0x22, 0xff, 0x22]), 415, /has to be UTF-8/],
      ["[]", 422, /^The body: expected an object/],
      ['{"path": "a"}', 422, /^The field "content": is missing/],
      ['{"path": 1, "content": "b"}', 422, /^The field "path": expected a string/],
      ['{"path": "a", "content": "\\ud800"}', 422, /^The field "content": has half of a surrogate pair/],
    ];
    for (const [body, status, detail] of cases) {
      const response = await post(body);
      expect([response.status, await response.json()]).toEqual([
        status,
        { detail: expect.stringMatching(detail) },
      ]);
    }
  });

  test("a body that announces too much gets 413 before it is sent; one that does not, when it is too much", async () => {
    const head = `POST /write HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${key}\r\nX-Namespace: n\r\n`;
    const answer = await raw(api.port, `${head}Connection: close\r\nContent-Length: 5000000\r\n\r\n`);
    expect(answer).toStartWith("HTTP/1.1 413");
    expect(answer).toContain('{"detail":"The body is larger than the 4194304 bytes allowed here."}');
    const chunks = new ReadableStream({
      async start(controller) {
        for (let sent = 0; sent < 6; sent++) {
          controller.enqueue(new Uint8Array(1024 * 1024));
          await Bun.sleep(1);
        }
        controller.close();
      },
    });
    expect((await post(chunks)).status).toBe(413);
    expect((await post(JSON.stringify({ path: "a", content: "b" }))).status).toBe(200);
  });

  test("an unforeseen error is a 500 that names the request, never the cause", async () => {
    const response = await api.call("/boom", { method: "POST", key, namespace: "n" });
    const id = response.headers.get("x-request-id");
    expect(id).toMatch(/^req-[a-z2-7]{16}$/);
    const text = await response.text();
    expect([response.status, text]).toEqual([500, expect.stringContaining(`${id}`)]);
    expect(text).not.toContain("secret");
    expect(api.logged).toContainEqual({
      message: "request failed",
      fields: expect.objectContaining({
        request_id: id,
        cause: expect.objectContaining({ message: "the secret cause" }),
      }),
    });
  });

  test("every answer has an id of its own", async () => {
    const ids = await Promise.all(
      ["/healthz", "/nothing", "/files/a/%2e%2e", "/v1/me"].map(async (path) =>
        (await api.call(path)).headers.get("x-request-id"),
      ),
    );
    expect(new Set(ids).size).toBe(4);
    expect(ids).not.toContain(null);
  });
});

test("the admin socket is its user's and group's", () => {
  expect(statSync(join(api.dir, "admin.sock")).mode & 0o777).toBe(0o660);
});

describe("listening", () => {
  test("beyond loopback is refused with a sentence", async () => {
    const { startServer } = await import("../../../../src/api/http/server.ts");
    const start = (listen: string) => () =>
      startServer({
        ...api,
        listening: listeningOf({ ...DEFAULTS, listen }),
        pair: null,
        adminSocket: join(api.dir, "other.sock"),
        contexts: createContexts(),
        log: { info() {}, warn() {}, error() {} },
      });
    for (const listen of ["0.0.0.0:0", "[::]:0", "example.com:0", "10.0.0.1:0", "127.0.0.1.example:0"]) {
      expect(start(listen)).toThrow(/beyond this host; set \[http\] tls_cert and tls_key, or behind_proxy/);
    }
    expect(start("127.0.0.1:70000")).toThrow(/at most 65535/);
    expect(start(`127.0.0.1:${api.port}`)).toThrow(/Cannot listen on the address/);
    await start("localhost:0")().stop(0);
  });
});

test("a stop refuses new calls with 503 and lets those in flight end", async () => {
  const other = await startApi();
  const { id } = await other.workspaces.create("w", APPLIANCE);
  const { apiKey } = await other.keys.create(
    { workspaceId: id, name: "k", scope: "workspace", namespace: null },
    APPLIANCE,
  );
  const slow = other.call("/slow", { method: "POST", key: apiKey, namespace: "a" });
  while ((await other.namespaces.find(id, "a")) === null) await Bun.sleep(1);
  const stopped = other.stop(10_000);
  const late = await other.call("/healthz");
  expect([late.status, late.headers.get("retry-after")]).toEqual([503, "5"]);
  expect(await late.json()).toEqual({ detail: expect.stringContaining("stopping") });
  await other.namespaces.remove(id, "a", APPLIANCE);
  expect((await slow).status).toBe(409);
  await stopped;
  other.remove();
});
