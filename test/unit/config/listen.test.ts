import { describe, expect, test } from "bun:test";
import { baseUrl, listeningOf } from "../../../src/config/listen.ts";
import { configSchema } from "../../../src/config/schema.ts";

const of = (http: Record<string, unknown>) => listeningOf(configSchema.parse({ http }).http);
const TLS = { tls_cert: "/c.pem", tls_key: "/k.pem" };

test("loopback needs nothing", () => {
  for (const [listen, hostname] of [
    ["127.0.0.1:80", "127.0.0.1"],
    ["127.9.8.7:80", "127.9.8.7"],
    ["localhost:80", "127.0.0.1"],
    ["LocalHost:80", "127.0.0.1"],
    ["[::1]:80", "::1"],
  ] as const) {
    expect(of({ listen })).toEqual({
      hostname,
      port: 80,
      loopback: true,
      tls: null,
      proxies: [],
      redirect: null,
      metrics: null,
    });
  }
});

describe("beyond this host", () => {
  const beyond = [
    "0.0.0.0:80",
    "[::]:80",
    "192.0.2.1:80",
    "example.com:80",
    "127.example.com:80",
    "[::ffff:7f00:1]:80",
  ];

  test.each(beyond)("%s in the clear is refused, and it is said what to set", (listen) => {
    expect(() => of({ listen })).toThrow(
      `[http] listen = "${listen}" would serve keys and files in the clear beyond this host; set [http] tls_cert and ` +
        "tls_key, or behind_proxy to the CIDR of a proxy that does TLS, or listen on a loopback address such as 127.0.0.1:8080.",
    );
  });

  test.each(beyond)("%s with TLS, or behind a proxy", (listen) => {
    expect(of({ listen, ...TLS })).toMatchObject({ loopback: false, tls: { cert: "/c.pem", key: "/k.pem" } });
    expect(of({ listen, behind_proxy: "10.0.0.0/8" })).toMatchObject({
      loopback: false,
      proxies: ["10.0.0.0/8"],
    });
    expect(of({ listen, behind_proxy: ["10.0.0.1", "fd00::/8"] }).proxies).toEqual(["10.0.0.1", "fd00::/8"]);
  });
});

test.each([
  [{ tls_cert: "/c.pem" }, "[http] tls_cert is set and tls_key is not; TLS takes both files."],
  [{ tls_key: "/k.pem" }, "[http] tls_key is set and tls_cert is not; TLS takes both files."],
  [{ behind_proxy: "0.0.0.0/0" }, '[http] behind_proxy = "0.0.0.0/0" would believe everyone'],
  [{ behind_proxy: ["10.0.0.1", "::/00"] }, '[http] behind_proxy = "::/00" would believe everyone'],
  [
    { behind_proxy: ["0.0.0.0/1", "128.0.0.0/1"] },
    '[http] behind_proxy = "0.0.0.0/1" would believe a good part of the',
  ],
  [{ behind_proxy: "11.0.0.0/7" }, "(/8 is the widest that is taken)."],
  [{ behind_proxy: "2000::/15" }, "(/16 is the widest that is taken)."],
  [{ behind_proxy: "::ffff:0:0/96" }, "would match nobody: write an IPv4 network as such, as 10.0.0.0/8."],
  [
    { behind_proxy: "::ffff:10.0.0.0/104" },
    "would match nobody: write an IPv4 network as such, as 10.0.0.0/8.",
  ],
  [
    { ...TLS, listen: "0.0.0.0:443", redirect_listen: "0.0.0.0:443" },
    '[http] redirect_listen = "0.0.0.0:443" is taken by listen = "0.0.0.0:443"; each needs a port of its own.',
  ],
  [
    { listen: "localhost:80", metrics_listen: "127.0.0.1:80" },
    'metrics_listen = "127.0.0.1:80" is taken by listen',
  ],
  [{ ...TLS, listen: "[::]:80", metrics_listen: "127.0.0.1:80" }, 'taken by listen = "[::]:80"'],
  [
    { ...TLS, redirect_listen: "0.0.0.0:80", metrics_listen: "127.0.0.1:80" },
    'metrics_listen = "127.0.0.1:80" is taken by redirect_listen = "0.0.0.0:80"',
  ],
  [
    { redirect_listen: "0.0.0.0:80" },
    "which takes [http] tls_cert and tls_key; behind a proxy it is the proxy that redirects",
  ],
  [{ listen: "127.0.0.1:70000" }, '[http] listen = "127.0.0.1:70000": the port is at most 65535.'],
  [
    { ...TLS, redirect_listen: "0.0.0.0:70000" },
    '[http] redirect_listen = "0.0.0.0:70000": the port is at most 65535.',
  ],
])("%j", (http, message) => expect(() => of(http)).toThrow(message));

test("a proxy that is no network", () => {
  for (const behind_proxy of ["proxy.example.com", "10.0.0.0/33", ["10.0.0.1", "x"], 8])
    expect(() => of({ behind_proxy })).toThrow();
});

test("proxies in a large network that may be named, and an address in IPv6's spelling", () => {
  for (const behind_proxy of ["10.0.0.0/8", "fc00::/7", "fd00::/8", "2001:db8::/32", "::ffff:10.0.0.1"])
    expect(of({ behind_proxy }).proxies).toEqual([behind_proxy]);
});

test("ports that are not the same address's", () => {
  for (const metrics_listen of ["127.0.0.1:81", "127.0.0.2:80", "[::1]:80"])
    expect(of({ listen: "127.0.0.1:80", metrics_listen }).metrics).not.toBeNull();
  expect(of({ ...TLS, listen: "0.0.0.0:443", metrics_listen: "[::1]:443" }).metrics).not.toBeNull();
  expect(of({ listen: "127.0.0.1:0", metrics_listen: "127.0.0.1:0" }).metrics).toMatchObject({ port: 0 });
});

test("where to redirect from", () => {
  expect(of({ ...TLS, redirect_listen: "0.0.0.0:80" }).redirect).toEqual({ hostname: "0.0.0.0", port: 80 });
});

test("the URL that is shown", () => {
  const url = (http: Record<string, unknown>, names: string[] = []) => {
    const listening = of(http);
    return baseUrl(listening, listening.port, names);
  };
  expect(url({ listen: "127.0.0.1:8080" })).toBe("http://127.0.0.1:8080");
  expect(url({ listen: "[::1]:80" })).toBe("http://[::1]");
  expect(url({ listen: "0.0.0.0:8080", behind_proxy: "10.0.0.1" })).toBe("http://127.0.0.1:8080");
  expect(url({ listen: "0.0.0.0:443", ...TLS }, ["*.a.test", "b.a.test"])).toBe("https://b.a.test");
  expect(url({ listen: "[::]:8443", ...TLS }, ["2001:DB8::1"])).toBe("https://[2001:db8::1]:8443");
  expect(url({ listen: "192.0.2.1:443", ...TLS }, ["b.a.test"])).toBe("https://192.0.2.1");
});

test("metrics are of this host alone", () => {
  expect(of({ metrics_listen: "127.0.0.1:9090" }).metrics).toEqual({ hostname: "127.0.0.1", port: 9090 });
  expect(of({ metrics_listen: "[::1]:9090" }).metrics).toEqual({ hostname: "::1", port: 9090 });
  for (const metrics_listen of ["0.0.0.0:9090", "[::]:9090", "192.0.2.1:9090", "example.com:9090"]) {
    expect(() => of({ ...TLS, metrics_listen })).toThrow(
      `[http] metrics_listen = "${metrics_listen}" would tell the network how busy this host is, without a key; ` +
        "use a loopback address such as 127.0.0.1:9090, and a tunnel or a proxy that asks who calls.",
    );
  }
});
