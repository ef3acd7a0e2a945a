import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import net from "node:net";
import { join } from "node:path";
import tls from "node:tls";
import { createDialer, type Answer, type PostOptions, type RequestOptions } from "../../../src/net/dial.ts";
import { parseTarget } from "../../../src/net/target.ts";
import { createAuthority } from "../../fixtures/authority.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { HERE } from "../../fixtures/here.ts";

const authority = createAuthority();
const both = authority.issue("DNS:a.test", "DNS:b.test");
const onlyA = authority.issue("DNS:a.test");
const onlyIp = authority.issue("IP:127.0.0.1");

const USUAL: PostOptions = { headers: {}, body: "{}", timeoutMs: 5000, maxAnswerBytes: 1000 };

/** A server that sees the bytes as they are. `respond` writes what it likes once a request's head and body are there. */
async function serve(
  respond: (socket: net.Socket, request: string) => void,
  certificate?: { cert: string; key: string },
) {
  const requests: string[] = [];
  const names: (string | false | null)[] = [];
  const onConnection = (socket: net.Socket) => {
    names.push(socket instanceof tls.TLSSocket ? socket.servername : null);
    socket.on("error", () => undefined);
    socket.on("data", (data) => {
      requests.push(data.toString());
      respond(socket, data.toString());
    });
  };
  const server = certificate ? tls.createServer(certificate, onConnection) : net.createServer(onConnection);
  server.on("tlsClientError", () => undefined);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as net.AddressInfo;
  return { port, requests, names, [Symbol.dispose]: () => void server.close() };
}

const ok = (socket: net.Socket) => socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");

const dialer = createDialer({ ca: authority.ca });
afterAll(() => dialer.close());

function post(url: string, options: Partial<PostOptions> = {}, from = dialer): Promise<Answer> {
  return from.post(parseTarget(url, { allowHttp: true }), HERE, { ...USUAL, ...options });
}

describe("what is sent", () => {
  test("goes to the address that was vetted, with the name in Host and SNI, as a POST of the body", async () => {
    using server = await serve(ok, both);
    const answer = await post(`https://a.test:${server.port}/hook?x=1`, {
      headers: { "x-one": "1" },
      body: "héllo",
    });
    expect(answer).toMatchObject({ status: 200, retryAfter: null, cut: false });
    expect(Buffer.from(answer.body).toString()).toBe("ok");
    expect(server.names).toEqual(["a.test"]);
    const [request = ""] = server.requests;
    expect(request).toStartWith("POST /hook?x=1 HTTP/1.1\r\n");
    expect(request.toLowerCase()).toContain(`\r\nhost: a.test:${server.port}\r\n`);
    expect(request.match(/^host:/gim)).toHaveLength(1);
    expect(request).toMatch(/\r\nx-one: 1\r\n/i);
    expect(request).toMatch(/\r\naccept-encoding: identity\r\n/i);
    expect(request).toEndWith("\r\n\r\nhéllo");
  });

  test("goes over a connection that is kept, for the same name only", async () => {
    using server = await serve(ok, both);
    for (const name of ["a", "a", "b", "a", "b"]) await post(`https://${name}.test:${server.port}/`);
    expect(server.requests).toHaveLength(5);
    expect(server.names).toEqual(["a.test", "b.test"]);
  });
});

test("a proxy that the environment names is not asked", async () => {
  using proxy = await serve((socket) => socket.destroy());
  using server = await serve(ok);
  const url = `http://a.test:${server.port}/`;
  const env = { http_proxy: `http://127.0.0.1:${proxy.port}`, HTTP_PROXY: `http://127.0.0.1:${proxy.port}` };
  const runPost = async (how: string) => {
    const script = join(import.meta.dir, "../../fixtures/post-once.ts");
    const child = Bun.spawn([process.execPath, script, how, url], { env, stderr: "inherit" });
    return (await child.stdout.text()).trim();
  };
  expect(await runPost("dialer")).toBe("200");
  expect([proxy.requests.length, server.requests.length]).toEqual([0, 1]);
  // Bun's fetch does ask it when it is not told otherwise.
  expect(await runPost("fetch")).not.toBe("200");
  expect([proxy.requests.length, server.requests.length]).toEqual([1, 1]);
});

describe("certificates", () => {
  test("of another name are refused, also on a connection's address that another name has used", async () => {
    using server = await serve(ok, onlyA);
    expect((await post(`https://a.test:${server.port}/`)).status).toBe(200);
    expect(await failureOf(post(`https://b.test:${server.port}/`))).toBe(
      "b.test showed a certificate for another name.",
    );
    expect((await post(`https://a.test:${server.port}/`)).status).toBe(200);
    expect(server.requests).toHaveLength(2);
  });

  test("of the address won't do for a name", async () => {
    using server = await serve(ok, onlyIp);
    expect((await post(`https://127.0.0.1:${server.port}/`)).status).toBe(200);
    expect(await failureOf(post(`https://a.test:${server.port}/`))).toContain(
      "a.test showed a certificate for another name.",
    );
  });

  test("of an authority that is not trusted are refused", async () => {
    using server = await serve(ok, onlyA);
    const usual = createDialer();
    const refused = post(`https://a.test:${server.port}/`, {}, usual);
    expect(await failureOf(refused)).toMatch(
      /^a\.test showed a certificate that is not trusted \(UNABLE_TO_/,
    );
    expect(server.requests).toEqual([]);
  });
});

describe("what comes back", () => {
  const servers = new Map<string, Awaited<ReturnType<typeof serve>>>();
  const behaviours: Record<string, (socket: net.Socket) => unknown> = {
    redirect: (socket) =>
      socket.write("HTTP/1.1 307 Go\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"),
    busy: (socket) => socket.write("HTTP/1.1 503 Busy\r\nretry-after: 120\r\ncontent-length: 0\r\n\r\n"),
    endless: (socket) => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      pour(socket, "x".repeat(16_384));
    },
    bomb: (socket) => {
      const packed = Bun.gzipSync(new Uint8Array(50_000_000));
      socket.write(`HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: ${packed.length}\r\n\r\n`);
      socket.write(packed);
    },
    head: (socket) => {
      socket.write("HTTP/1.1 200 OK\r\nx: ");
      pour(socket, "x".repeat(16_384));
    },
    continues: (socket) => every(socket, "HTTP/1.1 100 Continue\r\n\r\n"),
    drip: (socket) => {
      socket.write("HTTP/1.1 202 OK\r\ncontent-length: 1000\r\n\r\n");
      every(socket, "x");
    },
    "slow head": (socket) => every(socket, "x"),
    silence: () => undefined,
    garbage: (socket) => socket.write("SSH-2.0-OpenSSH_9.2\r\n"),
    upgrade: (socket) =>
      socket.write("HTTP/1.1 101 Switch\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"),
    close: (socket) => socket.destroy(),
    half: (socket) => socket.end("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nok"),
  };
  const pour = (socket: net.Socket, chunk: string) => {
    while (!socket.destroyed && socket.write(chunk));
    socket.once("drain", () => pour(socket, chunk));
  };
  const every = (socket: net.Socket, chunk: string) => {
    socket.write(chunk);
    const timer = setInterval(() => socket.write(chunk), 20);
    socket.on("close", () => clearInterval(timer));
  };
  beforeAll(async () => {
    for (const [name, respond] of Object.entries(behaviours)) servers.set(name, await serve(respond));
  });
  afterAll(() => {
    for (const server of servers.values()) server[Symbol.dispose]();
  });
  const at = (name: string) => `http://a.test:${servers.get(name)?.port}/${name.replace(" ", "-")}`;

  test("a redirect is not followed", async () => {
    expect((await post(at("redirect"))).status).toBe(307);
    expect(servers.get("redirect")?.requests).toHaveLength(1);
  });

  test("Retry-After is passed on", async () => {
    expect(await post(at("busy"))).toMatchObject({ status: 503, retryAfter: "120" });
  });

  test("no more than the limit is read of an answer without end, and the connection is closed", async () => {
    const closed = Promise.withResolvers<boolean>();
    using server = await serve((socket) => {
      socket.on("close", () => closed.resolve(true));
      behaviours["endless"]?.(socket);
    });
    const answer = await post(`http://a.test:${server.port}/`);
    expect(answer).toMatchObject({ status: 200, cut: true });
    expect(Buffer.from(answer.body).toString()).toBe("x".repeat(1000));
    expect(await closed.promise).toBe(true);
  });

  test("what is compressed stays so", async () => {
    const answer = await post(at("bomb"), { maxAnswerBytes: 100_000 });
    expect(answer).toMatchObject({ status: 200, cut: false });
    expect(answer.body.length).toBeLessThan(60_000);
    expect(Bun.gunzipSync(Buffer.from(answer.body))).toHaveLength(50_000_000);
  });

  test("the status counts when it came, though the rest did not in time, or was cut off", async () => {
    expect(await post(at("drip"), { timeoutMs: 300 })).toMatchObject({ status: 202, cut: true });
    expect(await post(at("half"))).toMatchObject({ status: 200, cut: true });
  });

  test.each(["silence", "slow head", "continues"])("%s ends at the deadline", async (name) => {
    expect(await failureOf(post(at(name), { timeoutMs: 300 }))).toContain(
      "a.test did not answer within 0.3 s.",
    );
  });

  test("a call can be cancelled, before and while it runs", async () => {
    const abort = new AbortController();
    const running = post(at("silence"), { signal: abort.signal });
    setTimeout(() => abort.abort(), 50);
    expect(await failureOf(running)).toContain("the call was cancelled");
    const seen = servers.get("silence")?.requests.length;
    expect(await failureOf(post(at("silence"), { signal: abort.signal }))).toContain(
      "the call was cancelled",
    );
    expect(servers.get("silence")?.requests.length).toBe(seen);
  });

  test.each([
    ["head", "a.test could not be called (ResponseHeadersTooLarge)."],
    ["garbage", "a.test could not be called (Malformed_HTTP_Response)."],
    ["upgrade", "a.test could not be called (UnrequestedUpgrade)."],
    ["close", "a.test closed the connection before it answered."],
  ])("%s is a failure with its reason", async (name, message) => {
    expect(await failureOf(post(at(name)))).toContain(message);
    expect(servers.get(name)?.requests).toHaveLength(1);
  });

  test("nobody there is said", async () => {
    const server = await serve(ok);
    server[Symbol.dispose]();
    const call = post(`http://a.test:${server.port}/`);
    expect(await failureOf(call)).toContain(`a.test refused the connection at port ${server.port}.`);
  });
});

describe("a call whose answer is read as it comes", () => {
  const request = (url: string, options: Partial<RequestOptions> = {}) =>
    dialer.request(parseTarget(url, { allowHttp: true }), HERE, {
      method: "GET",
      headers: {},
      signal: AbortSignal.timeout(10_000),
      ...options,
    });

  test("has a redirect's answer and an encoded one as they are", async () => {
    using server = await serve((socket, head) =>
      socket.write(
        head.startsWith("GET /moved")
          ? "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
          : "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nzip",
      ),
    );
    const moved = await request(`http://a.test:${server.port}/moved`);
    expect([moved.status, moved.headers.get("location")]).toEqual([302, "http://127.0.0.1:1/"]);
    const encoded = await request(`http://a.test:${server.port}/`);
    expect([encoded.headers.get("content-encoding"), await encoded.text()]).toEqual(["gzip", "zip"]);
  });

  test("takes no more of a stream than the server does", async () => {
    const held: net.Socket[] = [];
    await using server = net.createServer((socket) => held.push(socket.pause()));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as net.AddressInfo;
    const [chunk, stopped] = [new Uint8Array(1024 * 1024), new AbortController()];
    const source = { taken: 0 };
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        source.taken += 1;
        controller.enqueue(chunk);
      },
    });
    const answer = request(`http://a.test:${port}/`, { method: "POST", body, signal: stopped.signal });
    const settled = answer.then(
      () => "answered",
      (error: unknown) => error,
    );
    // Until the sockets' buffers are full.
    for (let before = -1; before !== source.taken || before === 0;) {
      before = source.taken;
      await Bun.sleep(200);
    }
    expect(source.taken).toBeLessThan(32);
    stopped.abort("the run is over");
    expect(await settled).toBe("the run is over");
    for (const socket of held) socket.destroy();
  });
});
