import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { APPLIANCE } from "../../../../src/audit/event.ts";
import { raw, startApi, type TestApi } from "../../../fixtures/api.ts";

/*
 * What no well-behaved client sends. Behind each message on the same connection comes a write, as an attacker would hide
 * it there from a proxy: where the message is refused the write must not happen, where it is taken the write does, which
 * shows that it would.
 */
let api: TestApi;
let key: string;
let hidden: string;
beforeAll(async () => {
  api = await startApi();
  const { id } = await api.workspaces.create("w", APPLIANCE);
  key = (
    await api.keys.create({ workspaceId: id, name: "k", scope: "workspace", namespace: null }, APPLIANCE)
  ).apiKey;
  const body = '{"path":"hidden","content":"x"}';
  hidden = `POST /write HTTP/1.1\r\n${head()}Content-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`;
});
afterAll(async () => {
  await api.stop();
  api.remove();
});
beforeEach(() => api.contents.clear());

const head = () => `Host: x\r\nAuthorization: Bearer ${key}\r\nX-Namespace: n\r\n`;
const post = (headers: string, body = "") => `POST /write HTTP/1.1\r\n${head()}${headers}\r\n${body}`;
const get = (headers: string) => `GET /v1/files HTTP/1.1\r\n${head()}${headers}\r\n`;
const CHUNKED = "Transfer-Encoding: chunked\r\n";
const BODY = '{"path":"a","content":"b"}';
const CHUNKS = `${BODY.length.toString(16)}\r\n${BODY}\r\n0\r\n\r\n`;

async function send(message: string) {
  const answer = await raw(api.port, Buffer.from(message + hidden, "latin1"));
  const answers = answer.split(/(?=HTTP\/1\.1 \d{3} )/).filter((one) => one !== "" && !one.includes(" 100 "));
  const written = [...api.contents.values()].flatMap((files) => [...files.keys()]);
  return {
    statuses: answers.map((one) => Number(one.slice(9, 12))),
    bodies: answers.map((one) => one.slice(one.indexOf("\r\n\r\n") + 4)),
    // Of what our code answers; Bun's own parser sends a bare status.
    isOurs: answers.map((one) => /\r\nx-request-id: /i.test(one)),
    hiddenWritten: written.includes("hidden"),
  };
}

describe("refused, and nothing behind it is done", () => {
  const cases: [string, () => string][] = [
    ["no Host", () => "GET /healthz HTTP/1.1\r\n\r\n"],
    ["Content-Length twice, unlike", () => post("Content-Length: 26\r\nContent-Length: 0\r\n", BODY)],
    ["a list of lengths", () => post("Content-Length: 26, 26\r\n", BODY)],
    ...["+26", "-1", "0x1a", "26 1", "2 6", "1e1", "99999999999999999999", "", "26;"].map(
      (length): [string, () => string] => [
        `Content-Length: ${JSON.stringify(length)}`,
        () => post(`Content-Length: ${length}\r\n`, BODY),
      ],
    ),
    [
      "Content-Length and Transfer-Encoding",
      () => post(`Content-Length: ${CHUNKS.length}\r\n${CHUNKED}`, CHUNKS),
    ],
    ["Transfer-Encoding and Content-Length", () => post(`${CHUNKED}Content-Length: 5\r\n`, CHUNKS)],
    ...[
      "chunked, chunked",
      "xchunked",
      "identity",
      "gzip, chunked",
      "chunked, gzip",
      "\vchunked",
      '"chunked"',
      "chunked;q=1",
      "chunked identity",
      "",
    ].map((coding): [string, () => string] => [
      `Transfer-Encoding: ${JSON.stringify(coding)}`,
      () => post(`Transfer-Encoding: ${coding}\r\n`, CHUNKS),
    ]),
    ["Transfer-Encoding twice", () => post(CHUNKED + CHUNKED, CHUNKS)],
    ["Transfer-Encoding twice, unlike", () => post(`${CHUNKED}Transfer-Encoding: identity\r\n`, CHUNKS)],
    ["a space before the colon", () => post("Transfer-Encoding : chunked\r\n", CHUNKS)],
    ["a tab before the colon", () => post("Content-Length\t: 26\r\n", BODY)],
    [
      "chunked in HTTP/1.0",
      () => `POST /write HTTP/1.0\r\n${head()}Connection: keep-alive\r\n${CHUNKED}\r\n${CHUNKS}`,
    ],
    ["a folded line", () => post("Transfer-Encoding:\r\n chunked\r\n", CHUNKS)],
    ["a folded line of another header", () => get("X: a\r\n b\r\n")],
    ["LF alone in a header", () => get("X: a\nTransfer-Encoding: chunked\r\n")],
    ["CR alone in a header", () => get("X: a\rTransfer-Encoding: chunked\r\n")],
    ["NUL in a value", () => get("X: a\0b\r\n")],
    ["NUL in a name", () => get("X\0: b\r\n")],
    ["a control character", () => get("X: a\x01b\r\n")],
    ["no colon", () => get("Transfer-Encoding\r\n")],
    ["no name", () => get(": chunked\r\n")],
    ["a space in a name", () => get("Transfer Encoding: chunked\r\n")],
    ["asterisk", () => `OPTIONS * HTTP/1.1\r\n${head()}\r\n`],
    ["asterisk, GET", () => `GET * HTTP/1.1\r\n${head()}\r\n`],
    ["a target without a slash", () => `GET v1/files HTTP/1.1\r\n${head()}\r\n`],
    ["two spaces", () => `GET  /v1/files HTTP/1.1\r\n${head()}\r\n`],
    ["empty lines first", () => `\r\n\r\n${get("")}`],
    ["a space in the method", () => `GE T /v1/files HTTP/1.1\r\n${head()}\r\n`],
    ["HTTP/2", () => "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
    ["TLS", () => "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"],
    ["the PROXY protocol", () => `PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n${get("")}`],
    ["a header of 16 KiB", () => get(`X: ${"a".repeat(16 * 1024)}\r\n`)],
    ["a header of 1 MiB", () => get(`X: ${"a".repeat(1024 * 1024)}\r\n`)],
    ["a target of 16 KiB", () => `GET /${"a".repeat(16 * 1024)} HTTP/1.1\r\n${head()}\r\n`],
    ["200 headers", () => get(Array.from({ length: 200 }, (_, n) => `X${n}: a\r\n`).join(""))],
    ["a chunk of a negative size", () => post(CHUNKED, `-1\r\n${CHUNKS}`)],
    ["a chunk whose size has 0x", () => post(CHUNKED, `0x${CHUNKS}`)],
    ["a chunk whose size overflows", () => post(CHUNKED, `FFFFFFFFFFFFFFFFF\r\n${CHUNKS}`)],
    ["a chunk of an exabyte", () => post(CHUNKED, `FFFFFFFFFFFFFFF\r\n${CHUNKS}`)],
    ["a space behind a chunk's size", () => post(CHUNKED, CHUNKS.replace("\r\n", " \r\n"))],
    ["a space before a chunk's size", () => post(CHUNKED, ` ${CHUNKS}`)],
    ["a chunk without a size", () => post(CHUNKED, `\r\n${CHUNKS}`)],
    ["chunks that end in LF alone", () => post(CHUNKED, CHUNKS.replaceAll("\r\n", "\n"))],
    ["LF in a chunk's extension", () => post(CHUNKED, CHUNKS.replace("\r\n", ";a\n\r\n"))],
    ["a chunk longer than its size", () => post(CHUNKED, CHUNKS.replace("1a", "19"))],
    ["a chunk shorter than its size", () => post(CHUNKED, CHUNKS.replace("1a", "1b"))],
    [
      "a chunk's extension of 40 KiB",
      () => post(CHUNKED, CHUNKS.replace("\r\n", `;${"a".repeat(40_000)}\r\n`)),
    ],
  ];
  for (const [name, message] of cases) {
    test(name, async () => {
      const { statuses, hiddenWritten } = await send(message());
      expect(statuses).toHaveLength(1);
      expect([400, 413, 431]).toContain(statuses[0] ?? 0);
      expect(hiddenWritten).toBe(false);
    });
  }

  // What HTTP says to another version of itself; it is Bun's parser that takes these for one.
  const versions: [string, () => string][] = [
    ["HTTP/2.0", () => get("").replace("HTTP/1.1", "HTTP/2.0")],
    ["HTTP/1.2", () => get("").replace("HTTP/1.1", "HTTP/1.2")],
    ["HTTP/0.9", () => "GET /v1/files\r\n\r\n"],
    ["small letters", () => get("").replace("HTTP/1.1", "http/1.1")],
    ["LF alone", () => get("").replaceAll("\r\n", "\n")],
    ["tabs", () => get("").replace("GET /v1/files HTTP", "GET\t/v1/files\tHTTP")],
    ["a space in the target", () => get("").replace("/v1/files", "/v1/files?path=a b")],
    ["NUL in the target", () => get("").replace("/v1/files", "/v1/files?path=a\0b")],
  ];
  for (const [name, message] of versions) {
    test(`no version that is known: ${name}`, async () => {
      const { statuses, hiddenWritten } = await send(message());
      expect([statuses, hiddenWritten]).toEqual([[505], false]);
    });
  }

  test("methods that nobody knows", async () => {
    for (const method of ["FOO", "get", "Get", "A".repeat(1000), "G\0ET", "\x01"]) {
      const { statuses, hiddenWritten } = await send(get("").replace("GET", method));
      expect([[], [400], [505]]).toContainEqual(statuses);
      expect(hiddenWritten).toBe(false);
    }
  });

  test("what follows the last chunk is never taken for a request", async () => {
    for (const trailer of [
      "X: y\r\n\r\n",
      "Content-Length: 5\r\n\r\n",
      hidden,
      `GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n`,
    ]) {
      const { statuses, hiddenWritten } = await send(post(CHUNKED, CHUNKS.slice(0, -2) + trailer));
      expect([statuses, hiddenWritten]).toEqual([[200, 400], false]);
      expect([...api.contents.values()].map((files) => [...files])).toEqual([[["a", "b"]]]);
    }
  });

  test("what follows an answer that closes is not done", async () => {
    for (const message of [
      get("Connection: close\r\n"),
      get("Connection: keep-alive\r\n").replace("HTTP/1.1", "HTTP/1.0"),
    ]) {
      const { statuses, hiddenWritten } = await send(message);
      expect([statuses, hiddenWritten]).toEqual([[200], false]);
    }
  });
});

describe("answered by our own code, with a sentence, and what is behind it for what it is", () => {
  const cases: [string, number, () => string][] = [
    ["two Hosts", 400, () => get("Host: y\r\n")],
    ["the same Host twice", 400, () => get("Host: x\r\n")],
    ["the same Content-Length twice", 400, () => post("Content-Length: 26\r\nContent-Length: 26\r\n", BODY)],
    ["TRACE", 405, () => `TRACE /v1/files HTTP/1.1\r\n${head()}\r\n`],
    ["PROPFIND", 405, () => `PROPFIND /v1/files HTTP/1.1\r\n${head()}\r\n`],
    ["OPTIONS", 405, () => `OPTIONS /v1/files HTTP/1.1\r\n${head()}\r\n`],
    ["a target of 8 KiB", 404, () => `GET /${"a".repeat(8 * 1024)} HTTP/1.1\r\n${head()}\r\n`],
    ["a path of 8 KiB", 400, () => `GET /files/${"a".repeat(8 * 1024)} HTTP/1.1\r\n${head()}\r\n`],
    ["a target of another origin", 404, () => `GET http://evil/nothing HTTP/1.1\r\n${head()}\r\n`],
    ["a path that begins with two slashes", 404, () => `GET //evil/v1/files HTTP/1.1\r\n${head()}\r\n`],
    ["bytes over 0x7f in the target", 404, () => `GET /\xff\xfe HTTP/1.1\r\n${head()}\r\n`],
    [
      "bytes over 0x7f in the key",
      401,
      () => "GET /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    ],
    [
      "bytes over 0x7f in the namespace",
      400,
      () =>
        `GET /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${key}\r\nX-Namespace: \xff\xfe\r\n\r\n`,
    ],
    ["150 headers", 200, () => get(Array.from({ length: 150 }, (_, n) => `X${n}: a\r\n`).join(""))],
    [
      "a WebSocket",
      200,
      () =>
        get(
          "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        ),
    ],
    [
      "h2c",
      200,
      () =>
        get("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
    ],
    ["a body where none belongs", 200, () => `${get("Content-Length: 26\r\n")}${BODY}`],
    ["a length", 200, () => post("Content-Length: 26\r\n", BODY)],
    ["chunks", 200, () => post(CHUNKED, CHUNKS)],
    [
      "chunks with an extension and zeros",
      200,
      () => post(CHUNKED, `0000${CHUNKS.replace("\r\n", ";a=b\r\n")}`),
    ],
    ["chunked in capitals, between tabs", 200, () => post("Transfer-Encoding:\tCHUNKED\t\r\n", CHUNKS)],
    ["Expect", 200, () => post("Expect: 100-continue\r\nContent-Length: 26\r\n", BODY)],
  ];
  for (const [name, status, message] of cases) {
    test(name, async () => {
      const { statuses, bodies, isOurs, hiddenWritten } = await send(message());
      expect(statuses).toEqual([status, 200]);
      expect(isOurs).toEqual([true, true]);
      if (status >= 400) expect(JSON.parse(bodies[0] ?? "")).toEqual({ detail: expect.any(String) });
      expect(hiddenWritten).toBe(true);
    });
  }

  test("CONNECT is no tunnel", async () => {
    const { statuses, hiddenWritten } = await send(
      "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
    );
    expect([statuses, hiddenWritten]).toEqual([[404], false]);
  });
});

describe("JSON bodies", () => {
  const write = (body: string | Uint8Array<ArrayBuffer>) =>
    fetch(`http://127.0.0.1:${api.port}/write`, {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, "x-namespace": "n" },
      body,
    });
  const cases: [string, string | Uint8Array<ArrayBuffer>, number, RegExp][] = [
    ["a depth bomb", "[".repeat(1_000_000), 422, /nested more than 32 levels/],
    ["a depth bomb of objects", '{"a":'.repeat(100_000), 422, /nested more than 32 levels/],
    ["a field twice", '{"path":"a","content":"b","content":"c"}', 422, /a field twice/],
    [
      "a field twice, spelled otherwise",
      '{"path":"a","content":"b","\\u0063ontent":"c"}',
      422,
      /a field twice/,
    ],
    ["a number beyond all", '{"path":1e999,"content":"b"}', 422, /"path": expected a string/],
    ["a number of 100,000 digits", `{"path":${"9".repeat(100_000)},"content":"b"}`, 422, /"path": expected/],
    ["half of a surrogate pair", '{"path":"a","content":"\\udc00"}', 422, /surrogate pair/],
    ["UTF-16", new Uint8Array([0xff, 0xfe, 0x7b, 0, 0x7d, 0]), 415, /UTF-8/],
    ["an overlong form", new Uint8Array([0x22, 0xc0, 0xaf, 0x22]), 415, /UTF-8/],
    ["a byte NUL", '{"path":"a\0","content":"b"}', 400, /JSON/],
    ["a comment", '{"path":"a","content":"b"} // c', 400, /JSON/],
    ["two values", '{"path":"a","content":"b"}{}', 400, /JSON/],
    ["a trailing comma", '{"path":"a","content":"b",}', 400, /JSON/],
    ["NaN", "NaN", 400, /JSON/],
    ["a form", "path=a&content=b", 400, /JSON/],
    ["fields by inheritance", '{"__proto__":{"path":"a","content":"b"}}', 422, /"path": is missing/],
    [
      "fields by a constructor",
      '{"constructor":{"prototype":{"path":"a","content":"b"}}}',
      422,
      /is missing/,
    ],
  ];
  for (const [name, body, status, detail] of cases) {
    test(name, async () => {
      const answer = await write(body);
      expect([answer.status, await answer.json()]).toEqual([
        status,
        { detail: expect.stringMatching(detail) },
      ]);
      expect(api.contents.size).toBe(0);
    });
  }

  test("that are odd and right", async () => {
    for (const body of [
      '\ufeff{"path":"a","content":"b"}',
      '{"path":"a","content":"b","more":{"__proto__":1}}',
      '{"content":"b","path":"a"}',
      '{"path":"a","content":"\\u0000\\ud83d\\ude00"}',
    ]) {
      expect((await write(body)).status).toBe(200);
    }
    expect(({} as { content?: unknown }).content).toBeUndefined();
  });

  test("a new key's rights are said once", async () => {
    const { id } = await api.workspaces.create("keys", APPLIANCE);
    const { apiKey } = await api.keys.create(
      { workspaceId: id, name: "k", scope: "admin", namespace: null },
      APPLIANCE,
    );
    const mint = (body: string) =>
      fetch(`http://127.0.0.1:${api.port}/v1/workspaces/${id}/keys`, {
        method: "POST",
        headers: { authorization: `Bearer ${apiKey}` },
        body,
      });
    for (const body of [
      '{"name":"n","admin":false,"admin":true}',
      '{"name":"n","namespace":"mine","namespace":null}',
      '{"name":"n","admin":false,"\\u0061dmin":true}',
    ]) {
      expect((await mint(body)).status).toBe(422);
    }
    expect(await api.keys.list(id)).toHaveLength(1);
    expect((await mint('{"name":"n","admin":false}')).status).toBe(200);
    expect(await api.keys.list(id)).toHaveLength(2);
  });
});

describe("every answer", () => {
  test("is neither guessed at nor kept, and names its request", async () => {
    const answers = await Promise.all([
      api.call("/healthz"),
      api.call("/v1/me", { key }),
      api.call("/v1/me"),
      api.call("/nothing"),
      api.call("/files/a/%2e%2e", { key, namespace: "n" }),
      api.call("/write", { key, namespace: "n", json: { path: "a", content: "b" } }),
      api.call("/write", { key, namespace: "n", json: [] }),
      api.call("/boom", { method: "POST", key, namespace: "n" }),
      api.admin("/admin/config"),
    ]);
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 401, 404, 400, 200, 422, 500, 200]);
    for (const { headers } of answers) {
      expect(headers.get("x-content-type-options")).toBe("nosniff");
      expect(headers.get("cache-control")).toBe("no-store");
      expect(headers.get("x-request-id")).toMatch(/^req-/);
    }
  });

  test("none was a failure of ours, but the one that was asked for", () => {
    expect(api.logged.filter(({ message }) => message === "request failed")).toHaveLength(1);
  });
});
