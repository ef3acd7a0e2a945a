import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Agent, get } from "node:https";
import { connect } from "node:tls";
import { openListener, type Listener } from "../../../../src/api/http/listener.ts";
import { startApi, type TestApi } from "../../../fixtures/api.ts";
import { makeCertificate } from "../../../fixtures/certificate.ts";
import { openDescriptors } from "../../../fixtures/scratch.ts";
import { until } from "../../../fixtures/until.ts";

const first = makeCertificate("first");
const second = makeCertificate("second");
const both = `${first.cert}\n${second.cert}`;

/** What `openssl s_client` makes of a server. */
async function handshake(port: number, ...options: string[]): Promise<{ connected: boolean; text: string }> {
  const child = Bun.spawn(["openssl", "s_client", "-connect", `127.0.0.1:${port}`, ...options], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, error, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { connected: code === 0, text: out + error };
}

/** The common name of the certificate that a new connection meets. */
function nameAt(port: number): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const socket = connect({ host: "127.0.0.1", port, ca: both }, () => {
    resolve(String(socket.getPeerCertificate().subject.CN));
    socket.destroy();
  });
  socket.on("error", reject);
  return promise;
}

describe("the protocol", () => {
  let api: TestApi;
  beforeAll(async () => {
    api = await startApi({ pair: first });
  });
  afterAll(async () => {
    await api.stop();
    api.remove();
  });
  // Else this machine's own openssl would not even ask for the old versions.
  const ANY = "ALL:COMPLEMENTOFALL:@SECLEVEL=0";

  test.each(["-tls1", "-tls1_1"])("%s is refused", async (version) => {
    const { connected, text } = await handshake(api.port, version, "-cipher", ANY);
    expect(text).toContain("alert protocol version");
    expect(connected).toBe(false);
  });

  test.each(["-tls1_2", "-tls1_3"])("%s is taken", async (version) => {
    expect((await handshake(api.port, version, "-cipher", ANY)).connected).toBe(true);
  });

  test("of TLS 1.2 only ciphers with forward secrecy and authenticated encryption", async () => {
    const all = Bun.spawnSync(["openssl", "ciphers", "-s", "-tls1_2", ANY])
      .stdout.toString()
      .trim()
      .split(":");
    const taken: string[] = [];
    for (const cipher of all.filter((name) => !name.startsWith("TLS_"))) {
      if ((await handshake(api.port, "-tls1_2", "-cipher", `${cipher}:@SECLEVEL=0`)).connected)
        taken.push(cipher);
    }
    expect(taken.toSorted()).toEqual([
      "ECDHE-ECDSA-AES128-GCM-SHA256",
      "ECDHE-ECDSA-AES256-GCM-SHA384",
      "ECDHE-ECDSA-CHACHA20-POLY1305",
    ]);
  }, 60_000);

  test("answers say that the browser should come by TLS only, errors too", async () => {
    for (const [path, status] of [
      ["/healthz", 200],
      ["/v1/me", 401],
      ["/nothing", 404],
      ["/files/a/%2e%2e", 400],
    ] as const) {
      const answer = await fetch(`https://127.0.0.1:${api.port}${path}`, { tls: { ca: first.cert } });
      expect([path, answer.status]).toEqual([path, status]);
      expect(answer.headers.get("strict-transport-security")).toBe("max-age=31536000");
    }
  });

  /** The answer to bytes that no client would send. */
  function raw(request: string): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    let answer = "";
    const socket = connect({ host: "127.0.0.1", port: api.port, ca: both }, () => socket.write(request));
    socket.on("data", (data) => (answer += String(data)));
    socket.on("close", () => resolve(answer));
    socket.on("error", reject);
    return promise;
  }

  test("a path is never taken for a part of itself, however short the Host is", async () => {
    for (const host of ["a", "ab", "a:", "abc", "a:1", "localhost", "[::1]"]) {
      for (const target of ["/x/healthz", "/xy/healthz", "//healthz"]) {
        const answer = await raw(`GET ${target} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
        expect([host, target, answer.split(" ")[1]]).toEqual([host, target, host.length < 3 ? "400" : "404"]);
      }
    }
    for (const target of ["https://a/x/healthz", "http://ab/x/healthz", "https://abc/x/healthz"]) {
      const answer = await raw(`GET ${target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`);
      expect([target, answer.split(" ")[1]]).toEqual([target, expect.stringMatching(/^40[04]$/)]);
    }
    expect(await raw("GET /healthz HTTP/1.1\r\nHost: abc\r\nConnection: close\r\n\r\n")).toStartWith(
      "HTTP/1.1 200",
    );
  });

  test("what is not TLS gets no answer", async () => {
    expect(
      await fetch(`http://127.0.0.1:${api.port}/healthz`).catch((error: unknown) => error),
    ).toBeInstanceOf(Error);
  });
});

describe("a new certificate", () => {
  const size = 32 * 1024 * 1024;
  let listener: Listener;
  beforeAll(() => {
    listener = openListener({
      endpoint: { hostname: "127.0.0.1", port: 0 },
      pair: first,
      handoverMs: 100,
      idleMs: 60_000,
      handlers: (generation) => ({
        routes: {},
        fetch: ({ url }) => {
          const headers = generation.retired ? { connection: "close" } : {};
          return new Response(url.endsWith("/large") ? new Uint8Array(size) : "ok", { headers });
        },
        maxRequestBodySize: 1000,
        idleTimeout: 60,
        development: false,
      }),
    });
  });
  afterAll(() => listener.stop());

  test("is met by every new connection; none is dropped, nor any that there was", async () => {
    const { port } = listener;
    const url = `https://127.0.0.1:${port}`;
    const tls = { ca: both };
    const state = { over: false, answered: 0 };

    // A download that takes longer than all replacements, since its reader waits.
    const large = await fetch(`${url}/large`, { tls });
    const download = large.body?.getReader();
    let received = (await download?.read())?.value?.length ?? 0;

    const anew = async () => {
      while (!state.over) {
        const answer = await fetch(url, { tls, keepalive: false });
        if ((await answer.text()) === "ok") state.answered++;
      }
    };
    // On one connection as long as it may, as most clients do.
    const agent = new Agent({ keepAlive: true, maxSockets: 1, ca: both });
    const kept = async () => {
      while (!state.over) {
        const { promise, resolve, reject } = Promise.withResolvers<void>();
        get({ host: "127.0.0.1", port, agent }, (answer) => answer.resume().on("end", resolve)).on(
          "error",
          reject,
        );
        await promise;
        state.answered++;
        await Bun.sleep(3);
      }
    };
    const loops = [anew(), anew(), kept()];
    for (let count = 0; count < 20; count++) {
      const [pair, name] = count % 2 === 0 ? [second, "second"] : [first, "first"];
      await listener.replace(pair);
      expect(await nameAt(port)).toBe(name);
    }
    state.over = true;
    await Promise.all(loops);
    expect(state.answered).toBeGreaterThan(20);

    for (let part = await download?.read(); part?.done === false; part = await download?.read())
      received += part.value.length;
    expect(received).toBe(size);
  }, 60_000);

  test("an idle connection is still good, and is then asked to come anew", async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1, ca: both });
    const ask = () => {
      const { promise, resolve, reject } = Promise.withResolvers<{
        port: number;
        connection: string | undefined;
      }>();
      const request = get({ host: "127.0.0.1", port: listener.port, agent }, (answer) => {
        const local = request.socket?.localPort ?? 0;
        answer.resume().on("end", () => resolve({ port: local, connection: answer.headers.connection }));
      });
      request.on("error", reject);
      return promise;
    };
    const before = await ask();
    await listener.replace(second);
    const after = await ask();
    expect(after).toEqual({ port: before.port, connection: "close" });
    expect((await ask()).port).not.toBe(before.port);
  });

  test("one that Bun does not take changes nothing", async () => {
    await listener.replace(first);
    const refused = await listener.replace({ cert: "no", key: "no" }).catch((error: unknown) => error);
    expect(String(refused)).toContain("Cannot listen on the address");
    expect(await nameAt(listener.port)).toBe("first");
    await listener.replace(second);
    expect(await nameAt(listener.port)).toBe("second");
  });
});

describe("at every address of the host", () => {
  const open = (port: number, idleMs = 1000) =>
    openListener({
      endpoint: { hostname: "::", port },
      pair: first,
      handoverMs: 10,
      idleMs,
      handlers: () => ({
        routes: {},
        fetch: () => new Response("ok"),
        maxRequestBodySize: 1000,
        idleTimeout: 10,
        development: false,
      }),
    });

  test("another server never shares it, before or after a replacement", async () => {
    const listener = open(0);
    expect(() => open(listener.port)).toThrow(/Cannot listen on the address \[::\]:\d+: /);
    await listener.replace(second);
    expect(await nameAt(listener.port)).toBe("second");
    expect(() => open(listener.port)).toThrow(/Cannot listen on the address/);
    await listener.stop();
    await open(listener.port).stop();
  });

  test("those who were replaced leave nothing open", async () => {
    const listener = open(0, 10);
    const before = openDescriptors("socket:");
    for (let count = 0; count < 10; count++) await listener.replace(count % 2 === 0 ? second : first);
    // Others' sockets, of tests before, may be closed meanwhile.
    await until(() => openDescriptors("socket:") <= before);
    expect(await nameAt(listener.port)).toBe("first");
    await listener.stop();
  });
});
