import { describe, expect, test } from "bun:test";
import { canonicalAddress, isNetwork, networksOf } from "../../../src/net/networks.ts";

describe("a network's text", () => {
  test.each(["10.0.0.0/8", "10.0.0.0/0", "10.1.2.3", "192.0.2.0/32", "fd00::/8", "::1", "2001:db8::/128"])(
    "%s",
    (text) => expect(isNetwork(text)).toBe(true),
  );
  test.each([
    "",
    "10.0.0.0/33",
    "10.0.0/8",
    "10.0.0.0/8/8",
    "10.0.0.0/",
    "10.0.0.0/-1",
    "fd00::/129",
    "fe80::1%lo",
    "a/8",
  ])("not %p", (text) => expect(isNetwork(text)).toBe(false));
});

test("one spelling for each address", () => {
  const same: [string, string | null][] = [
    ["192.0.2.1", "192.0.2.1"],
    ["::ffff:192.0.2.1", "192.0.2.1"],
    ["::FFFF:C000:0201", "192.0.2.1"],
    ["2001:DB8:0:0:0:0:0:1", "2001:db8::1"],
    ["::1", "::1"],
    ["fe80::1%eth0", null],
    ["192.0.2.01", null],
    ["192.0.2.256", null],
    ["0x7f000001", null],
    ["localhost", null],
    ["", null],
  ];
  for (const [text, expected] of same) expect([text, canonicalAddress(text)]).toEqual([text, expected]);
});

test("several networks together", () => {
  const networks = networksOf(["10.0.0.0/8", "192.0.2.7", "fd00::/8"]);
  for (const address of ["10.255.0.1", "192.0.2.7", "fd12::1", "::ffff:10.1.2.3"])
    expect([address, networks.has(address)]).toEqual([address, true]);
  for (const address of ["11.0.0.1", "192.0.2.8", "fe80::1", "::ffff:11.1.2.3", "", "10.0.0.1, 1.1.1.1"])
    expect([address, networks.has(address)]).toEqual([address, false]);
  expect(networksOf([]).has("10.0.0.1")).toBe(false);
});
