import { expect, test } from "bun:test";
import { sourceOf } from "../../../src/net/source.ts";

test("IPv4 counts by itself, IPv6 by its /64, both in the network of a customer", () => {
  const cases = [
    ["192.0.2.1", "192.0.2.1", "192.0.2.0/24"],
    ["::ffff:192.0.2.1", "192.0.2.1", "192.0.2.0/24"],
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"],
    ["2001:db8:1:2::1", "2001:db8:1:2::/64", "2001:db8:1::/48"],
    ["2001:DB8:0001:0002::", "2001:db8:1:2::/64", "2001:db8:1::/48"],
    ["2001:db8::1", "2001:db8:0:0::/64", "2001:db8:0::/48"],
    ["2001:db8::3:4:5:6", "2001:db8:0:0::/64", "2001:db8:0::/48"],
    ["2001::3:4:5:6:7:8", "2001:0:3:4::/64", "2001:0:3::/48"],
    ["::1", "0:0:0:0::/64", "0:0:0::/48"],
    ["::", "0:0:0:0::/64", "0:0:0::/48"],
    ["1::", "1:0:0:0::/64", "1:0:0::/48"],
    ["fe80::1", "fe80:0:0:0::/64", "fe80:0:0::/48"],
    ["unknown", "unknown", "unknown"],
  ] as const;
  for (const [address, source, network] of cases) {
    expect([address, sourceOf(address)]).toEqual([address, { source, network }]);
  }
});
