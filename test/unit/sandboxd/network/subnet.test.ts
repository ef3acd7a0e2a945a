import { expect, test } from "bun:test";
import { subnetOf } from "../../../../src/sandboxd/network/subnet.ts";

test("a /24 of 10.42.0.0/16 by its number, and back", () => {
  const subnet = subnetOf({ subnet: "10.42.0.0/16", prefix: 24 });
  expect(subnet.count).toBe(256);
  expect(subnet.network(0)).toEqual({ index: 0, host: "10.42.0.1", run: "10.42.0.2" });
  expect(subnet.network(255)).toEqual({ index: 255, host: "10.42.255.1", run: "10.42.255.2" });
  expect(() => subnet.network(256)).toThrow("no network 256");
  for (let index = 0; index < subnet.count; index++) {
    expect(subnet.indexOf(subnet.network(index).host)).toBe(index);
    expect(subnet.indexOf(subnet.network(index).run)).toBe(null);
  }
  expect(["10.41.255.1", "10.43.0.1", "nothing", "::1"].map((address) => subnet.indexOf(address))).toEqual([
    null,
    null,
    null,
    null,
  ]);
});

test("a /30 leaves room for thousands, none of which shares an address", () => {
  const subnet = subnetOf({ subnet: "192.168.128.0/17", prefix: 30 });
  expect(subnet.count).toBe(8192);
  const all = Array.from({ length: subnet.count }, (_, index) => subnet.network(index));
  expect(new Set(all.flatMap(({ host, run }) => [host, run])).size).toBe(2 * 8192);
  expect(all.at(-1)).toEqual({ index: 8191, host: "192.168.255.253", run: "192.168.255.254" });
});

test("what overlaps it", () => {
  const subnet = subnetOf({ subnet: "10.42.0.0/16", prefix: 24 });
  const overlapping = [
    "10.42.0.0/16",
    "10.0.0.0/8",
    "10.42.255.255",
    "10.42.128.0/17",
    "10.32.0.0/11",
    "0.0.0.0/0",
  ];
  expect(overlapping.filter((cidr) => !subnet.overlaps(cidr))).toEqual([]);
  const apart = [
    "10.41.0.0/16",
    "10.43.0.0/16",
    "10.40.0.0/15",
    "11.0.0.0/8",
    "192.168.0.0/16",
    "fd00::/8",
    "words",
  ];
  expect(apart.filter((cidr) => subnet.overlaps(cidr))).toEqual([]);
});

test.each([
  ["10.42.1.0/16", 24, "has bits beyond its /16; that network is 10.42.0.0/16"],
  ["10.42.0.0/33", 24, "is not an IPv4 network"],
  ["300.1.0.0/16", 24, "is not an IPv4 network"],
  ["8.8.0.0/16", 24, "not within a private network"],
  ["127.0.0.0/16", 24, "not within a private network"],
  ["169.254.0.0/16", 24, "not within a private network"],
  ["172.24.0.0/12", 24, "has bits beyond"],
  ["0.0.0.0/0", 24, "not within a private network"],
  ["10.0.0.0/7", 24, "not within a private network"],
  ["172.16.0.0/11", 24, "has bits beyond"],
  ["10.42.0.0/28", 24, "prefix = 24 asks for networks larger than"],
])("subnet %p with prefix %p is refused", (subnet, prefix, why) => {
  expect(() => subnetOf({ subnet, prefix })).toThrow(why);
});

test.each([
  ["10.0.0.0/8", 24],
  ["172.16.0.0/12", 30],
  ["100.64.0.0/10", 24],
  ["10.42.7.0/24", 24],
  ["10.42.7.4/30", 30],
])("subnet %p with prefix %p will do", (subnet, prefix) => {
  expect(subnetOf({ subnet, prefix }).count).toBeGreaterThan(0);
});
