import { expect, test } from "bun:test";
import { sourceOf } from "../../../src/net/source.ts";

test("IPv4 counts by itself, IPv6 by its /64, both in the network of a customer", () => {
  expect(sourceOf("203.0.113.7")).toEqual({ source: "203.0.113.7", network: "203.0.113.0/24" });
  expect(sourceOf("::ffff:203.0.113.7")).toEqual(sourceOf("203.0.113.7"));
  expect(sourceOf("2001:db8:1:2:3:4:5:6")).toEqual({
    source: "2001:db8:1:2::/64",
    network: "2001:db8:1::/48",
  });
  expect(sourceOf("2001:0DB8:0001:0002::9")).toEqual(sourceOf("2001:db8:1:2:3:4:5:6"));
  expect(sourceOf("2001:db8:1:3::9").source).not.toBe(sourceOf("2001:db8:1:2::9").source);
  expect(sourceOf("2001:db8:1:3::9").network).toBe(sourceOf("2001:db8:1:2::9").network);
  expect(sourceOf("::1")).toEqual({ source: "0:0:0:0::/64", network: "0:0:0::/48" });
  expect(sourceOf("unknown")).toEqual({ source: "unknown", network: "unknown" });
});
