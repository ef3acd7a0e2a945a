import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, readdirSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { namespaceId, type NamespaceId } from "../../../src/ids.ts";
import { AppError } from "../../../src/errors.ts";
import { fileClient, startFileApi } from "../../fixtures/file-api.ts";
import { raw } from "../../fixtures/raw.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const scratch = scratchDirectory();
let api: Awaited<ReturnType<typeof startFileApi>>;
let id: NamespaceId;
let client: ReturnType<typeof fileClient>;

beforeAll(async () => {
  api = await startFileApi(scratch.path);
});

afterAll(async () => {
  await api.stop();
  scratch[Symbol.dispose]();
});

beforeEach(() => {
  id = namespaceId.make();
  client = fileClient(api.port, id);
});

async function json(response: Response | Promise<Response>): Promise<unknown> {
  return (await response).json();
}

async function detail(response: Promise<Response>, status: number): Promise<string> {
  const answer = await response;
  const body = (await answer.json()) as { detail: string };
  expect([answer.status, body.detail]).toEqual([status, body.detail]);
  return body.detail;
}

describe("write and read", () => {
  test("in every spelling of a path", async () => {
    expect(await json(client.write("a/ü.txt", "one"))).toEqual({ path: "workspace/a/ü.txt", size_bytes: 3 });
    for (const path of ["a/ü.txt", "workspace/a/ü.txt", "/workspace/a/ü.txt", "./a/./ü.txt"]) {
      expect(await json(client.content(path))).toMatchObject({ path: "workspace/a/ü.txt", content: "one" });
    }
    for (const path of ["a/ü.txt", "workspace/a/%C3%BC.txt", "/workspace/a/ü.txt", "a%2f%C3%BC.txt"]) {
      expect(await (await client.get(path)).text()).toBe("one");
    }
    expect(await json(client.put("workspace/a/ü.txt", "four"))).toEqual({
      path: "workspace/a/ü.txt",
      size_bytes: 4,
    });
    expect(await json(client.write("a/ü.txt", ""))).toEqual({ path: "workspace/a/ü.txt", size_bytes: 0 });
    expect(await json(client.content("a/ü.txt"))).toMatchObject({
      size_bytes: 0,
      encoding: "utf-8",
      content: "",
    });
  });

  test("names that need care in URLs", async () => {
    for (const name of [
      "a b",
      "%41",
      "100%",
      "what?",
      "#1",
      "a+b",
      "a&b=c",
      "漢字",
      "..a",
      "a..b",
      "%2e%2e.txt",
    ]) {
      expect(await json(client.put(encodeURIComponent(name), name))).toMatchObject({
        path: `workspace/${name}`,
      });
      expect(await (await client.get(encodeURIComponent(name))).text()).toBe(name);
      expect(await json(client.content(name))).toMatchObject({ content: name });
    }
    // As the SDK sends them.
    for (const name of ["100%", "100%x", "%", "a%/b%"]) {
      const answer = await raw(
        api.port,
        `PUT /files/${name} HTTP/1.1\r\nHost: h\r\nAuthorization: ${client.headers.authorization}\r\n` +
          `X-Namespace: ${id}\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx`,
      );
      expect(answer).toContain(`"workspace/${name}"`);
    }
    expect((await client.get("what?")).status).toBe(404);
    expect(await json(client.put("so?what", "x"))).toMatchObject({ path: "workspace/so?what" });
    expect(await (await client.get("so%3Fwhat")).text()).toBe("x");
  });

  test("bytes are kept as they are", async () => {
    const bytes = crypto.getRandomValues(new Uint8Array(3_000_000));
    expect(await json(client.put("b", bytes))).toEqual({ path: "workspace/b", size_bytes: bytes.length });
    const answer = await client.get("b");
    expect(Buffer.compare(await answer.bytes(), bytes)).toBe(0);
    expect(answer.headers.get("x-trove-size")).toBe("3000000");
    expect(answer.headers.get("x-trove-truncated")).toBeNull();
    expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
    expect(answer.headers.get("content-security-policy")).toBe("sandbox; default-src 'none'");
    expect(answer.headers.get("cache-control")).toBe("private, no-cache");
  });

  test("the tenant owns what the API makes, and an existing file keeps its mode", async () => {
    await client.write("d/e/f", "x");
    const stat = (path: string) =>
      Bun.spawnSync(["stat", "-c", "%u:%g %a", join(api.live(id), path)])
        .stdout.toString()
        .trim();
    expect([stat("."), stat("d"), stat("d/e"), stat("d/e/f")]).toEqual([
      "10000:10000 755",
      "10000:10000 755",
      "10000:10000 755",
      "10000:10000 644",
    ]);
    Bun.spawnSync(["chmod", "750", join(api.live(id), "d/e/f")]);
    await client.write("d/e/f", "y");
    expect(stat("d/e/f")).toBe("10000:10000 750");
  });

  test("what can't be", async () => {
    await client.write("file", "x");
    await client.write("dir/file", "x");
    expect(await detail(client.write("dir", "x"), 409)).toContain("workspace/dir is a directory");
    expect(await detail(client.put("file/below", "x"), 409)).toContain("not a directory");
    expect(await detail(client.write("", "x"), 400)).toContain("names a directory");
    expect(await detail(client.write("new/", "x"), 400)).toContain("names a directory");
    expect(await detail(client.get("dir"), 400)).toContain("is a directory");
    expect(await detail(client.content("dir"), 400)).toContain("is a directory");
    expect(await detail(client.get("nothing"), 404)).toBe("There is no workspace/nothing.");
    expect(await detail(client.content("file/below"), 404)).toContain("workspace/file/below");
    expect(await detail(client.call("/v1/files/content"), 422)).toContain("?path=");
    expect(await detail(client.post("/write", "{"), 400)).toContain("JSON");
    expect(await detail(client.post("/write", { path: "x" }), 422)).toContain("content");
    expect(await detail(client.write("x", "\ud800"), 422)).toContain("surrogate");
    const notText = client.call("/write", {
      method: "POST",
      body: Buffer.from('{"path":"x","content":"\xff"}', "latin1"),
    });
    expect(await detail(notText, 415)).toContain("UTF-8");
    expect(await detail(client.call("/files/file", { method: "PATCH" }), 405)).toContain("GET, HEAD, PUT");
  });
});

describe("the same sentence, and nothing changed,", () => {
  const urls = [
    "../x",
    "a/../x",
    "%2e%2e/x",
    "a/%2E%2e/x",
    "..%2fx",
    "%252e%252e%252fx",
    "a%5cx",
    "a\\..\\x",
    "%00",
    "a%0ax",
    "%ff",
    "/etc/passwd",
    "//etc",
    "a//b",
    "100%/../x",
    "100%\\..\\x",
    "workspace//etc",
    "n".repeat(256),
    `a?/../x`,
  ];
  const inputs = [
    "../x",
    "a/../x",
    "%2e%2e/x",
    "..%2fx",
    "a\\x",
    "\0",
    "a\nx",
    "/etc/passwd",
    "workspace//etc",
    "n".repeat(256),
    "a/".repeat(3000) + "x",
  ];

  test("for URLs, also those that no client would send", async () => {
    const sentences = new Set<string>();
    for (const url of urls) {
      for (const method of ["GET", "PUT"]) {
        const answer = await raw(
          api.port,
          `${method} /files/${url} HTTP/1.1\r\nHost: h\r\nAuthorization: ${client.headers.authorization}\r\n` +
            `X-Namespace: ${id}\r\nContent-Length: ${method === "PUT" ? 1 : 0}\r\nConnection: close\r\n\r\n${method === "PUT" ? "x" : ""}`,
        );
        expect(`${method} ${url.slice(0, 40)}: ${answer.slice(0, 12)}`).toBe(
          `${method} ${url.slice(0, 40)}: HTTP/1.1 400`,
        );
        sentences.add(/"detail":"(.*)"/.exec(answer)?.[1] ?? answer);
      }
    }
    expect(sentences.size).toBe(1);
    expect(api.made.has(id)).toBe(false);
  });

  test("for bodies and queries", async () => {
    const sentences = new Set<string>();
    for (const input of inputs) {
      sentences.add(await detail(client.write(input, "x"), 400));
      sentences.add(await detail(client.remove(input), 400));
      sentences.add(await detail(client.list(input), 400));
      sentences.add(await detail(client.content(input), 400));
    }
    sentences.add(await detail(client.call("/v1/files/content?path=%ff"), 400));
    expect(sentences.size).toBe(1);
    expect(api.made.has(id)).toBe(false);
  });
});

describe("download", () => {
  test("parts, as asked for", async () => {
    await client.put("f", "0123456789");
    const get = async (range: string, more: Record<string, string> = {}) => {
      const answer = await client.get("f", { range, ...more });
      return [answer.status, answer.headers.get("content-range"), await answer.text()];
    };
    expect(await get("bytes=2-4")).toEqual([206, "bytes 2-4/10", "234"]);
    expect(await get("bytes=-3")).toEqual([206, "bytes 7-9/10", "789"]);
    expect(await get("bytes=8-99")).toEqual([206, "bytes 8-9/10", "89"]);
    expect(await get("bytes=1-2,4-5")).toEqual([200, null, "0123456789"]);
    expect(await get("bytes=0-1", { "if-range": '"other"' })).toEqual([200, null, "0123456789"]);
    const [status, range, body] = await get("bytes=10-");
    expect([status, range]).toEqual([416, "bytes */10"]);
    expect(JSON.parse(body as string)).toEqual({ detail: expect.stringContaining("10 bytes") });
  });

  test("not again what the client has", async () => {
    await client.put("f", "one");
    const etag = (await client.get("f")).headers.get("etag")!;
    expect((await client.get("f", { "if-none-match": etag })).status).toBe(304);
    expect((await client.get("f", { "if-range": etag, range: "bytes=0-0" })).status).toBe(206);
    await client.put("f", "two");
    const changed = await client.get("f", { "if-none-match": etag });
    expect([changed.status, await changed.text()]).toEqual([200, "two"]);
  });

  test("its headers only", async () => {
    for (const size of [0, 5, 3_000_000]) {
      await client.put("f", new Uint8Array(size));
      const answer = await client.call("/files/f", { method: "HEAD" });
      expect([
        answer.status,
        answer.headers.get("content-length"),
        answer.headers.get("x-trove-size"),
      ]).toEqual([200, String(size), String(size)]);
    }
  });

  test("at most 100 MiB, and the rest by range", async () => {
    await client.put("big", "x");
    const limit = 100 * 1024 * 1024;
    truncateSync(join(api.live(id), "big"), limit + 5);
    const answer = await client.get("big");
    expect(answer.headers.get("x-trove-truncated")).toBe("1");
    expect(answer.headers.get("x-trove-size")).toBe(String(limit + 5));
    let size = 0;
    for await (const chunk of answer.body ?? []) size += chunk.length;
    expect(size).toBe(limit);
    const rest = await client.get("big", { range: `bytes=${limit}-` });
    expect([rest.status, (await rest.bytes()).length]).toEqual([206, 5]);
  });
});

describe("content", () => {
  const MIB = 1024 * 1024;
  const contentOf = async (bytes: Uint8Array | string) => {
    await client.put("f", bytes);
    return (await json(client.content("f"))) as {
      encoding: string;
      content: string | null;
      truncated: boolean;
    };
  };

  test("is text or binary", async () => {
    expect(await contentOf("tab\t\r\n\x1b[0m é 🦀 \ufeff")).toMatchObject({
      encoding: "utf-8",
      content: "tab\t\r\n\x1b[0m é 🦀 \ufeff",
    });
    expect(await contentOf("\ufeffmark")).toMatchObject({ content: "\ufeffmark" });
    for (const bytes of [[0], [0xff], [0xc3], [0xed, 0xa0, 0x80], [0x61, 0xe2, 0x82]]) {
      expect(await contentOf(Uint8Array.from(bytes))).toMatchObject({
        encoding: "binary",
        content: null,
        truncated: false,
      });
    }
  });

  test("is cut between characters", async () => {
    for (const character of ["x", "é", "漢", "🦀"]) {
      for (const lead of ["", "a", "aa", "aaa"]) {
        const text = lead + character.repeat(MIB + 1);
        const { content, truncated, encoding } = await contentOf(text);
        expect([encoding, truncated]).toEqual(["utf-8", true]);
        expect(text.startsWith(content!)).toBe(true);
        expect(MIB - Buffer.byteLength(content!)).toBeLessThan(4);
      }
    }
    expect((await contentOf("x".repeat(MIB))).truncated).toBe(false);
  });

  test("of a cut file that is not text is binary", async () => {
    const bytes = Buffer.alloc(MIB + 10, "a");
    bytes[MIB - 1] = 0xff;
    expect(await contentOf(bytes)).toMatchObject({ encoding: "binary", truncated: true });
  });
});

describe("list", () => {
  interface Entries {
    entries: {
      name: string;
      path: string;
      is_dir: boolean;
      size_bytes: number | null;
      modified_at: string;
    }[];
    truncated: boolean;
  }
  const list = async (path?: string, recursive?: boolean) =>
    (await json(client.list(path, recursive))) as Entries;

  test("is empty where nothing was written, and 404 where there is no directory", async () => {
    expect(await list()).toEqual({ entries: [], truncated: false });
    expect(await list("", true)).toEqual({ entries: [], truncated: false });
    expect(await detail(client.list("nothing"), 404)).toBe("There is no workspace/nothing.");
    await client.write("file", "x");
    expect(await detail(client.list("nothing"), 404)).toContain("nothing");
    expect(await detail(client.list("file"), 400)).toContain("not a directory");
    expect(await detail(client.list("file/below"), 404)).toContain("workspace/file/below");
    expect(await detail(client.call("/v1/files?recursive=maybe"), 422)).toContain("true or false");
  });

  test("has directories first, and what is in them behind them", async () => {
    for (const path of ["b", "a", "z/2", "z/1", "y/x/deep", "Z"]) await client.write(path, path);
    const plain = await list();
    expect(plain.entries.map(({ name, is_dir, size_bytes }) => [name, is_dir, size_bytes])).toEqual([
      ["y", true, null],
      ["z", true, null],
      ["Z", false, 1],
      ["a", false, 1],
      ["b", false, 1],
    ]);
    for (const { modified_at } of plain.entries)
      expect(modified_at).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
    expect((await list("workspace/", true)).entries.map(({ path }) => path)).toEqual(
      ["y", "y/x", "y/x/deep", "z", "z/1", "z/2", "Z", "a", "b"].map((path) => `workspace/${path}`),
    );
    expect((await list("z")).entries.map(({ path }) => path)).toEqual(["workspace/z/1", "workspace/z/2"]);
  });

  test("stops at 1000 entries and at 20 levels, and says so", async () => {
    await client.write("many/x", "");
    for (let index = 0; index < 1200; index++)
      writeFileSync(join(api.live(id), "many", `f${1000 + index}`), "");
    mkdirSync(join(api.live(id), "many", "zdir"));
    const many = await list("many");
    expect([many.entries.length, many.truncated]).toEqual([1000, true]);
    expect(many.entries.map(({ name }) => name)).toEqual([
      "zdir",
      ...Array.from({ length: 999 }, (_, n) => `f${1000 + n}`),
    ]);
    await client.remove("many");

    await client.write(`${"d/".repeat(20)}f`, "");
    const deep = await list("", true);
    expect([deep.entries.length, deep.truncated]).toEqual([20, true]);
    await client.remove("d");
    await client.write(`${"d/".repeat(19)}f`, "");
    const fits = await list("", true);
    expect([fits.entries.length, fits.truncated]).toEqual([20, false]);
  });

  test("shows links as what they point to inside, and names that are not UTF-8", async () => {
    await client.write("dir/f", "12345");
    const live = api.live(id);
    symlinkSync("dir", join(live, "to-dir"));
    symlinkSync("dir/f", join(live, "to-file"));
    symlinkSync("/home/agent/workspace/dir/f", join(live, "absolute"));
    symlinkSync("/etc/passwd", join(live, "out"));
    symlinkSync("nowhere", join(live, "dangling"));
    symlinkSync("loop", join(live, "loop"));
    writeFileSync(Buffer.concat([Buffer.from(`${live}/`), Buffer.from([0xff, 0x21])]), "");
    const { entries, truncated } = await list("", true);
    expect(truncated).toBe(false);
    expect(entries.map(({ path, is_dir, size_bytes }) => [path.slice(10), is_dir, size_bytes])).toEqual([
      ["dir", true, null],
      ["dir/f", false, 5],
      ["to-dir", true, null],
      ["absolute", false, 5],
      ["dangling", false, 7],
      ["loop", false, 4],
      ["out", false, 11],
      ["to-file", false, 5],
      ["\ufffd!", false, 0],
    ]);
  });

  test("has times of one width, whatever a tenant sets", async () => {
    await client.write("f", "");
    for (const [time, shown] of [
      ["1901-01-01 00:00:00.5", "1901-12-13"],
      ["1970-01-01 00:00:00", "1970-01-01"],
      ["2300-01-01 00:00:00.123456789", "2300-01-01"],
    ] as const) {
      Bun.spawnSync(["touch", "-d", `${time} UTC`, join(api.live(id), "f")]);
      const { entries } = await list();
      expect(entries[0]!.modified_at).toHaveLength(27);
      expect(entries[0]!.modified_at.slice(0, 10) >= shown.slice(0, 4)).toBe(true);
    }
  });
});

describe("delete", () => {
  test("takes a file, a link itself, a directory with all in it", async () => {
    for (const path of ["a", "d/e/f", "d/g", "keep/f"]) await client.write(path, path);
    symlinkSync("../keep", join(api.live(id), "d", "link"));
    symlinkSync("keep", join(api.live(id), "link"));
    expect(await json(client.remove("/workspace/a"))).toEqual({ deleted: "workspace/a" });
    expect(await detail(client.remove("a"), 404)).toBe("There is no workspace/a.");
    expect(await json(client.remove("link"))).toEqual({ deleted: "workspace/link" });
    expect(await json(client.remove("d/"))).toEqual({ deleted: "workspace/d" });
    expect(await detail(client.remove("keep/f/"), 400)).toContain("not a directory");
    expect(await (await client.get("keep/f")).text()).toBe("keep/f");
    expect(((await json(client.list())) as { entries: unknown[] }).entries).toHaveLength(1);
  });

  test("does not take the workspace itself, nor make a namespace", async () => {
    for (const path of ["", ".", "workspace", "workspace/", "/workspace"]) {
      expect(await detail(client.remove(path), 400)).toContain("workspace itself");
    }
    expect(await detail(client.remove("x"), 404)).toContain("workspace/x");
    expect(api.made.has(id)).toBe(false);
  });
});

test("a revoked key ends a download under way", async () => {
  await client.put("big", new Uint8Array(50_000_000));
  const answer = await client.get("big");
  const reader = answer.body!.getReader();
  await reader.read();
  api.calls.endOfKey(api.keyId, new AppError("unauthenticated", "gone"));
  let broken = false;
  try {
    while (!(await reader.read()).done);
  } catch {
    broken = true;
  }
  expect(broken).toBe(true);
});

test("a revoked key ends an upload whose client is silent", async () => {
  await client.write("before", "x");
  const answer = raw(
    api.port,
    `PUT /files/stalled HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: ${client.headers.authorization}\r\n` +
      `X-Namespace: ${id}\r\nContent-Length: 1000\r\nConnection: close\r\n\r\nabc`,
  );
  while (readdirSync(api.tmp(id)).length === 0) await Bun.sleep(5);
  api.calls.endOfKey(api.keyId, new AppError("unauthenticated", "gone"));
  expect(await answer).toMatch(/^HTTP\/1.1 401[^]*gone/);
  expect(readdirSync(api.tmp(id))).toEqual([]);
  expect(readdirSync(api.live(id))).toEqual(["before"]);
});

test("nothing went wrong unseen", () => {
  expect(api.logged).toEqual([]);
});
