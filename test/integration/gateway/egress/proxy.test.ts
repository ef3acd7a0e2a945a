import { afterAll, expect, test } from "bun:test";
import { connect as connectTls } from "node:tls";
import { createAuthority } from "../../../fixtures/authority.ts";
import { until } from "../../../fixtures/until.ts";
import { startWebProxy, type WebProxy } from "../../../fixtures/web-proxy.ts";

const authority = createAuthority();
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  tls: authority.issue("DNS:good.test", "DNS:other.test", "DNS:a.below.test"),
  routes: {
    "/large": () => new Response("x".repeat(8 * 1024 * 1024)),
    "/slow": () =>
      new Response(
        new ReadableStream({
          async start(controller) {
            controller.enqueue("first");
            await Bun.sleep(60_000);
          },
        }),
      ),
  },
  fetch: async (request) =>
    new Response(`${new URL(request.url).hostname} ${(await request.bytes()).length}`),
});
afterAll(() => server.stop(true));

const port = server.port ?? 0;
const allow = ["good.test", "*.below.test"].map((host) => ({ host, port }));
const HERE = (): readonly string[] => ["127.0.0.1"];

function fetchBy(proxy: WebProxy, url: string, init: BunFetchRequestInit = {}): Promise<Response> {
  return fetch(url, {
    ...init,
    proxy: `http://run:${proxy.token}@127.0.0.1:${proxy.port}`,
    tls: { ca: authority.ca },
  });
}

const outcome = async (call: Promise<unknown> | undefined): Promise<string> =>
  call?.then(
    () => "done",
    (error: unknown) => `failed: ${String(error)}`,
  ) ?? "not begun";

const denials = async (proxy: WebProxy) =>
  (await proxy.records()).flatMap((one) =>
    one.kind === "denied" ? [[one.lane, one.reason, one.detail]] : [],
  );

test("a host of the grant is reached as it is, and what was carried is told", async () => {
  using proxy = startWebProxy({ egress: { allow }, names: HERE });
  const body = "y".repeat(300_000);
  const good = await fetchBy(proxy, `https://good.test:${port}/`, { method: "POST", body });
  expect(await good.text()).toBe("good.test 300000");
  expect(await (await fetchBy(proxy, `https://a.below.test:${port}/`)).text()).toBe("a.below.test 0");
  expect((await (await fetchBy(proxy, `https://good.test:${port}/large`)).text()).length).toBe(
    8 * 1024 * 1024,
  );
  proxy.stop();
  const records = (await proxy.records()).filter((one) => one.kind === "egress");
  expect(records.every(({ port: told }) => told === port)).toBe(true);
  expect(new Set(records.map(({ host }) => host))).toEqual(new Set(["good.test", "a.below.test"]));
  const sum = (of: "bytes_sent" | "bytes_received" | "connections") =>
    records.reduce((total, one) => total + one[of], 0);
  expect(sum("bytes_sent")).toBeGreaterThan(300_000);
  expect(sum("bytes_received")).toBeGreaterThan(8 * 1024 * 1024);
  expect(sum("connections")).toBe(records.length);
  expect(await denials(proxy)).toEqual([]);
  expect(proxy.tunnels()).toBe(0);
});

test("what is not of the grant is refused with the reason, in the first line too", async () => {
  using proxy = startWebProxy({ egress: { allow }, names: HERE });
  const connect = (target: string) =>
    proxy.ask(
      `CONNECT ${target} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic ${btoa(`run:${proxy.token}`)}\r\n\r\n`,
    );
  const refused = [
    `elsewhere.test:${port}`,
    `below.test:${port}`,
    `good.test.evil.test:${port}`,
    `xgood.test:${port}`,
    `good.test:${port + 1}`,
    `127.0.0.1:${port}`,
    `[::1]:${port}`,
    `2130706433:${port}`,
    `0x7f.1:${port}`,
    `good.test%00.evil.test:${port}`,
  ];
  for (const target of refused) {
    const answer = await connect(target);
    expect(answer).toStartWith("HTTP/1.1 403 Forbidden: ");
    expect(answer.split("\r\n")[0]).toContain("not among the hosts that this run may reach (egress.allow)");
    expect(answer).toEndWith("(egress.allow).\n");
  }
  expect((await denials(proxy)).map(([, reason]) => reason)).toEqual(refused.map(() => "host"));
  // The control: the same in another spelling of the name is let through.
  for (const target of [`GOOD.test:${port}`, `good.test.:${port}`]) {
    const socket = await proxy.tunnel(target);
    socket.destroy();
  }
});

test("without the run's token, or from another address, nobody is let through; nor with no grant", async () => {
  using proxy = startWebProxy({ egress: { allow }, names: HERE });
  const line = `CONNECT good.test:${port} HTTP/1.1\r\n`;
  const shown = (header: string) => proxy.ask(`${line}${header}\r\n`);
  const right = `Proxy-Authorization: Bearer ${proxy.token}\r\n`;
  for (const header of [
    "",
    "Proxy-Authorization: Bearer sk-ant-0\r\n",
    `Proxy-Authorization: Bearer ${proxy.token}0\r\n`,
    `Proxy-Authorization: ${proxy.token}\r\n`,
    `Authorization: Bearer ${proxy.token}\r\n`,
    `${right}${right}`,
  ]) {
    const answer = await shown(header);
    expect(answer).toStartWith("HTTP/1.1 407 ");
    expect(answer).toContain("\r\nProxy-Authenticate: Basic ");
  }
  proxy.change(proxy.grant.spec().egress, "127.0.0.9");
  expect(await shown(right)).toStartWith("HTTP/1.1 407 ");
  proxy.change(null);
  expect(await shown(right)).toStartWith("HTTP/1.1 403 Forbidden: This run reaches no host");
  proxy.change({ allow, max_bytes: null, max_connections: 1 });
  expect(await proxy.ask(`${line}${right}\r\n`, "\r\n\r\n")).toStartWith("HTTP/1.1 200 ");
  const told = (await proxy.records()).filter((one) => one.kind === "denied");
  const count = (reason: string) =>
    told.reduce((sum, one) => sum + (one.reason === reason ? one.count : 0), 0);
  // Two of them showed the proxy nothing, as many clients do at first.
  expect(["token", "peer", "not granted"].map(count)).toEqual([4, 1, 1]);
  // The six are one at once, and the others together.
  expect(told).toHaveLength(4);
});

test("what is no CONNECT is told so, and what never ends is cut", async () => {
  using proxy = startWebProxy({ egress: { allow }, names: HERE });
  expect(await proxy.ask("GET http://good.test/ HTTP/1.1\r\n\r\n")).toStartWith("HTTP/1.1 405 ");
  expect(await proxy.ask("\x16\x03\x01\r\n\r\n")).toStartWith("HTTP/1.1 400 ");
  expect(await proxy.ask("CONNECT good.test HTTP/1.1\r\n\r\n")).toStartWith("HTTP/1.1 400 ");
  expect(await proxy.ask("CONNECT good.test:443 HTTP/1.1\r\nbad header\r\n\r\n")).toStartWith(
    "HTTP/1.1 400 ",
  );
  expect(await proxy.ask("x".repeat(20_000))).toStartWith("HTTP/1.1 431 ");
});

test("an address that may not be dialled is refused, and one among several refuses all", async () => {
  const names: Record<string, string[]> = {
    "loop.test": ["127.0.0.1"],
    "metadata.test": ["169.254.169.254"],
    "inner.test": ["10.1.2.3"],
    "mixed.test": ["93.184.215.14", "10.1.2.3"],
    "mapped.test": ["::ffff:10.1.2.3"],
    "nowhere.test": [],
  };
  const egress = { allow: Object.keys(names).map((host) => ({ host, port: 443 })) };
  using proxy = startWebProxy({ egress, names: (name) => names[name] ?? [], strict: true });
  for (const [host, why] of [
    ["loop.test", "leads to a loopback address"],
    ["metadata.test", "leads to a link-local address"],
    [
      "inner.test",
      "leads to an address of a private network, which only the operator can allow, by [egress] allow_private",
    ],
    ["mixed.test", "leads to an address of a private network"],
    ["mapped.test", "leads to an address of a private network"],
    ["nowhere.test", "has no address in DNS"],
  ] as const) {
    const answer = await proxy.ask(
      `CONNECT ${host}:443 HTTP/1.1\r\nProxy-Authorization: Bearer ${proxy.token}\r\n\r\n`,
    );
    expect(answer).toStartWith("HTTP/1.1 403 ");
    expect(answer).toContain(why);
    expect(answer).not.toMatch(/10\.1\.2\.3|169\.254/);
  }
  expect((await denials(proxy)).map(([, reason]) => reason)).toEqual(
    Array.from({ length: 6 }, () => "address"),
  );
});

test("the address that was judged is the one that is dialled, wherever the name leads by then", async () => {
  const asked: string[] = [];
  using proxy = startWebProxy({
    egress: { allow },
    names(name) {
      asked.push(name);
      return asked.length === 1 ? ["127.0.0.1"] : ["127.0.0.2"];
    },
  });
  expect(await (await fetchBy(proxy, `https://good.test:${port}/`)).text()).toBe("good.test 0");
  expect(asked).toEqual(["good.test"]);
});

/** What TLS ends with for a client that asks the server for `servername` by a tunnel to good.test. */
async function greet(proxy: WebProxy, servername: string): Promise<string> {
  const socket = await proxy.tunnel(`good.test:${port}`);
  const { promise, resolve } = Promise.withResolvers<string>();
  const tls = connectTls({ socket, ca: authority.ca, ...(servername === "" ? {} : { servername }) });
  tls.once("secureConnect", () => resolve("connected"));
  tls.once("error", (error) => resolve((error as NodeJS.ErrnoException).code ?? error.message));
  tls.once("close", () => resolve("closed"));
  const end = await promise;
  tls.destroy();
  return end;
}

test("TLS for another name than the one that was asked for is cut before the server sees it", async () => {
  using proxy = startWebProxy({ egress: { allow }, names: HERE });
  expect(await greet(proxy, "good.test")).toBe("connected");
  expect(await greet(proxy, "other.test")).not.toBe("connected");
  expect(await greet(proxy, "good.test.other.test")).not.toBe("connected");
  const plain = await proxy.tunnel(`good.test:${port}`);
  plain.write("GET / HTTP/1.1\r\nHost: other.test\r\n\r\n");
  const answer: Buffer[] = [];
  for await (const chunk of plain) answer.push(chunk as Buffer);
  // An alert, unrecognized_name, and the end.
  expect(Buffer.concat(answer).toString("hex")).toBe("15030300020270");
  expect(await denials(proxy)).toEqual([
    ["egress", "sni", "good.test: its TLS is for other.test"],
    ["egress", "sni", "good.test: its TLS is for good.test.other.test"],
    ["egress", "sni", "good.test: it does not begin with TLS"],
  ]);
  await until(() => proxy.tunnels() === 0);
});

test("bytes and connections end at what the grant says", async () => {
  using proxy = startWebProxy({ egress: { allow, max_bytes: 1_000_000, max_connections: 2 }, names: HERE });
  const first = await proxy.tunnel(`good.test:${port}`);
  const second = await proxy.tunnel(`good.test:${port}`);
  expect(await outcome(proxy.tunnel(`good.test:${port}`))).toContain("429 Too Many Requests");
  first.destroy();
  await until(() => proxy.tunnels() === 1);
  second.destroy();
  await until(() => proxy.tunnels() === 0);
  const cut = fetchBy(proxy, `https://good.test:${port}/large`).then(async (response) => response.text());
  expect(await outcome(cut)).toStartWith("failed");
  await until(() => proxy.tunnels() === 0);
  const records = await proxy.records();
  const carried = records.reduce(
    (sum, one) => sum + (one.kind === "egress" ? one.bytes_sent + one.bytes_received : 0),
    0,
  );
  expect(carried).toBeGreaterThan(500_000);
  expect(carried).toBeLessThanOrEqual(1_000_000);
  expect((await denials(proxy)).map(([, reason]) => reason)).toEqual(["connections", "bytes"]);
});

test("the end of a run cuts what it has open", async () => {
  using proxy = startWebProxy({ egress: { allow }, names: HERE });
  const slow = await fetchBy(proxy, `https://good.test:${port}/slow`);
  const reader = slow.body?.getReader();
  expect(new TextDecoder().decode((await reader?.read())?.value)).toBe("first");
  proxy.abort();
  expect(await outcome(reader?.read())).toStartWith("failed");
  expect(proxy.tunnels()).toBe(0);
  expect(await proxy.records()).toMatchObject([{ kind: "egress", host: "good.test", connections: 1 }]);
});

test("a client that does not read keeps nothing in memory but what the sockets hold", async () => {
  using proxy = startWebProxy({ egress: { allow }, names: HERE });
  const socket = await proxy.tunnel(`good.test:${port}`);
  const tls = connectTls({ socket, ca: authority.ca, servername: "good.test" });
  tls.pause();
  tls.write("GET /large HTTP/1.1\r\nHost: good.test\r\n\r\n");
  await until(() => proxy.tunnels() === 1);
  await Bun.sleep(300);
  proxy.stop();
  const [record] = (await proxy.records()).filter((one) => one.kind === "egress");
  // Of 8 MiB, what kernel buffers and one chunk take.
  expect(record?.bytes_received ?? 0).toBeLessThan(7 * 1024 * 1024);
  tls.destroy();
});

test("a connection for whose bytes no room is left is cut, and those that are taken go on", async () => {
  const none = { all: 0, ofRun: 0, sure: 0 };
  using proxy = startWebProxy({ egress: { allow }, names: HERE, waiting: none });
  const socket = await proxy.tunnel(`good.test:${port}`);
  const tls = connectTls({ socket, ca: authority.ca, servername: "good.test" });
  tls.on("error", () => {});
  tls.pause();
  tls.write("GET /large HTTP/1.1\r\nHost: good.test\r\n\r\n");
  await until(async () => (await denials(proxy)).length > 0);
  expect(await denials(proxy)).toEqual([
    ["egress", "memory", `good.test:${port}: too much waits to be taken`],
  ]);
  expect(proxy.tunnels()).toBe(0);
  const small = await fetchBy(proxy, `https://good.test:${port}/`, { method: "POST", body: "four" });
  expect(await small.text()).toBe("good.test 4");
  tls.destroy();
});
