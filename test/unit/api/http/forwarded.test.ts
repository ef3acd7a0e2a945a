import { describe, expect, test } from "bun:test";
import { isHost, originOf } from "../../../../src/api/http/forwarded.ts";
import { networksOf } from "../../../../src/net/networks.ts";

const PROXIES = networksOf(["10.0.0.0/24", "fd00::/64"]);
const PROXY = "10.0.0.1";

function origin(peer: string, headers: [string, string][], encrypted = false) {
  return originOf({ peer, encrypted, headers: new Headers([["host", "h"], ...headers]) }, PROXIES);
}
const client = (peer: string, ...forwarded: string[]) =>
  origin(
    peer,
    forwarded.map((value) => ["x-forwarded-for", value]),
  ).address;

describe("the client's address", () => {
  test.each<[what: string, peer: string, forwarded: string[], expected: string]>([
    ["no proxy, no header", "192.0.2.1", [], "192.0.2.1"],
    ["no proxy: its header means nothing", "192.0.2.1", ["198.51.100.9"], "192.0.2.1"],
    ["the proxy's header", PROXY, ["198.51.100.9"], "198.51.100.9"],
    [
      "a client that sends its own through the proxy, which adds",
      PROXY,
      ["1.1.1.1, 198.51.100.9"],
      "198.51.100.9",
    ],
    ["the same in a header of its own", PROXY, ["1.1.1.1", "198.51.100.9"], "198.51.100.9"],
    ["a client that names a proxy", PROXY, ["10.0.0.7, 198.51.100.9"], "198.51.100.9"],
    ["two proxies", PROXY, ["198.51.100.9, 10.0.0.2"], "198.51.100.9"],
    ["two proxies, and a client that lies", PROXY, ["1.1.1.1, 198.51.100.9,10.0.0.2"], "198.51.100.9"],
    ["the proxy itself", PROXY, [], PROXY],
    ["nothing but proxies", PROXY, ["10.0.0.3, 10.0.0.2"], "10.0.0.3"],
    ["IPv6", "fd00::1", ["2001:DB8::0:1"], "2001:db8::1"],
    ["IPv6 with its port", PROXY, ["[2001:db8::1]:4711"], "2001:db8::1"],
    ["IPv6 in brackets", PROXY, ["[2001:db8::1]"], "2001:db8::1"],
    ["IPv4 with its port", PROXY, ["198.51.100.9:4711"], "198.51.100.9"],
    ["IPv4 as IPv6, at a dual-stack socket", "::ffff:10.0.0.1", ["::ffff:198.51.100.9"], "198.51.100.9"],
    ["what is no address: the proxy is all that is known", PROXY, ["198.51.100.9, unknown"], PROXY],
    ["nothing to the left of a proxy", PROXY, ["1.1.1.1, bad, 10.0.0.2"], "10.0.0.2"],
    ["an empty header", PROXY, [""], PROXY],
    ["empty items", PROXY, ["1.1.1.1,,"], PROXY],
    ["a zone", PROXY, ["fe80::1%eth0"], PROXY],
    ["a name", PROXY, ["localhost"], PROXY],
    ["a number that some take for an address", PROXY, ["2130706433"], PROXY],
  ])("%s", (_what, peer, forwarded, expected) => {
    expect(client(peer, ...forwarded)).toBe(expected);
  });

  test("of a list without end only what counts is looked at", () => {
    expect(client(PROXY, `${"1.1.1.1, ".repeat(2000)}198.51.100.9`)).toBe("198.51.100.9");
    expect(client(PROXY, "10.0.0.2, ".repeat(2000))).toBe(PROXY);
  });
});

describe("whether it is secure, and what it was called", () => {
  const told: [string, string][] = [
    ["x-forwarded-proto", "https"],
    ["x-forwarded-host", "files.example.com"],
  ];

  test("by a proxy that says so", () => {
    expect(origin(PROXY, told)).toMatchObject({ secure: true, host: "files.example.com" });
    expect(origin(PROXY, [["x-forwarded-proto", "http"]], true)).toMatchObject({ secure: false, host: "h" });
    expect(origin(PROXY, [])).toMatchObject({ secure: false, host: "h" });
    // What the proxy added stands last.
    expect(origin(PROXY, [["x-forwarded-proto", "https, http"]]).secure).toBe(false);
    expect(origin(PROXY, [["x-forwarded-host", "evil.example, h2"]]).host).toBe("h2");
  });

  test("not by anyone else, who is as secure as the connection", () => {
    expect(origin("192.0.2.1", told)).toEqual({ address: "192.0.2.1", secure: false, host: "h" });
    expect(origin("192.0.2.1", [], true).secure).toBe(true);
  });

  test("other headers of the kind mean nothing", () => {
    const others: [string, string][] = [
      ["forwarded", "for=1.1.1.1;proto=https;host=evil"],
      ["x-real-ip", "1.1.1.1"],
      ["true-client-ip", "1.1.1.1"],
      ["x-forwarded-ssl", "on"],
    ];
    expect(origin(PROXY, others)).toEqual({ address: PROXY, secure: false, host: "h" });
  });
});

test("a host", () => {
  for (const host of ["localhost", "a_b.example.com:8080", "127.0.0.1", "[::1]:80"])
    expect(isHost(host)).toBe(true);
  for (const host of [
    "",
    "a b",
    "a/b",
    "a@b",
    "a, b",
    "a:b",
    "a:999999",
    "[::1",
    "https://a",
    "1.2.3.4.5",
    "a:99999",
  ])
    expect(isHost(host)).toBe(false);
});
