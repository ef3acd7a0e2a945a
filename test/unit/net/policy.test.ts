import { describe, expect, test } from "bun:test";
import { createAddressPolicy } from "../../../src/net/policy.ts";

const notOurs = () => false;

function policyOf(
  allowPrivate: string[] = [],
  more: { isOwn?: (address: string) => boolean; mayAllowThisHost?: boolean } = {},
) {
  return createAddressPolicy({
    allowPrivate: () => allowPrivate,
    setting: "[webhooks] allow_private",
    isOwn: notOurs,
    ...more,
  });
}

const PUBLIC = [
  "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
  "168.63.129.15", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255", "192.0.1.0",
  "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
  "2000::", "2001:200::1", "2003::1", "2606:4700:4700::1111", "3ffe:ffff::1", "3fff:1000::1",
  "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "64:ff9b::1.1.1.1", "64:ff9b::101:101",
]; // prettier-ignore

const DENIED: readonly [what: RegExp, addresses: string[]][] = [
  [
    /private network, which only the operator can allow, by \[webhooks\] allow_private$/,
    [
      "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0",
      "192.168.255.255", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::ffff:10.0.0.1", "::10.0.0.1",
      "64:ff9b::10.0.0.1", "64:FF9B::A00:1",
    ],
  ],
  [/loopback/, ["127.0.0.1", "127.255.255.255", "::1", "0:0:0:0:0:0:0:1", "::ffff:7f00:1", "::7f00:1", "64:ff9b::7f00:1"]],
  [/link-local/, ["169.254.0.0", "169.254.169.254", "169.254.170.2", "fe80::1", "febf::1", "::ffff:a9fe:a9fe"]],
  [
    /metadata/,
    ["100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:42::42", "::ffff:100.100.100.200"],
  ],
  [/multicast/, ["224.0.0.1", "239.255.255.255", "ff02::1", "ffff::1"]],
  [
    /reserved/,
    [
      "0.0.0.0", "0.255.255.255", "192.0.0.0", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.0",
      "198.19.255.255", "198.51.100.1", "203.0.113.255", "240.0.0.0", "255.255.255.255", "::", "::2", "1::1",
      "64:ff9b:1::1", "64:ff9b:0:0:1::1", "100::1", "2001::1", "2001:1ff:ffff::1", "2001:db8::1", "2002:7f00:1::",
      "2002:808:808::1", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1", "fbff::1", "fec0::1", "1fff:ffff::1",
      "::ffff:0:127.0.0.1",
    ],
  ],
  [
    /other than an IP address/,
    [
      "", "localhost", "127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "127.0.0.1.", "127.0.0.256", "1.1.1.1 ",
      "fe80::1%eth0", "2606:4700::1%1", "[::1]", ":::1", "1:2:3:4:5:6:7:8:9", "::ffff:127.1", "01.1.1.1", "１.1.1.1",
    ],
  ],
]; // prettier-ignore

describe("without an operator's leave", () => {
  test.each(PUBLIC)("%s is allowed", (address) => {
    expect(policyOf().judge(address)).toMatchObject({ allowed: true });
  });

  for (const [what, addresses] of DENIED) {
    test.each(addresses)(`%p is denied: ${what.source}`, (address) => {
      expect(policyOf().judge(address)).toEqual({ allowed: false, what: expect.stringMatching(what) });
    });
  }
});

test("an operator's network lets in what it holds, in every spelling, and nothing else", () => {
  const policy = policyOf(["10.1.0.0/16", "fd12::/16"]);
  for (const address of [
    "10.1.0.0",
    "10.1.255.255",
    "::ffff:10.1.2.3",
    "::ffff:a01:203",
    "fd12::1",
    "64:ff9b::10.1.0.1",
  ]) {
    expect([address, policy.judge(address).allowed]).toEqual([address, true]);
  }
  for (const address of [
    "10.0.255.255",
    "10.2.0.0",
    "192.168.0.1",
    "fd13::1",
    "::ffff:10.2.0.0",
    "127.0.0.1",
  ]) {
    expect([address, policy.judge(address).allowed]).toEqual([address, false]);
  }
});

test("no setting lets in loopback, link-local, metadata, multicast or reserved addresses", () => {
  const policy = policyOf([
    "0.0.0.0/0",
    "::/0",
    "127.0.0.0/8",
    "::1/128",
    "169.254.0.0/16",
    "100.64.0.0/10",
    "fc00::/7",
  ]);
  const never = DENIED.filter(([what]) => !what.source.includes("private")).flatMap(
    ([, addresses]) => addresses,
  );
  expect(never.filter((address) => policy.judge(address).allowed)).toEqual([]);
  expect(policy.judge("100.100.100.201").allowed).toBe(true);
  expect(policy.judge("fd00:ec3::254").allowed).toBe(true);
});

test("the host's own addresses are denied, also where a setting holds them, and in every spelling", () => {
  const own = new Set(["203.0.114.7", "10.0.0.5", "fd12::5", "2606:4700::5"]);
  const policy = policyOf(["10.0.0.0/8", "fd12::/16"], { isOwn: (address) => own.has(address) });
  for (const address of [
    ...own,
    "::ffff:10.0.0.5",
    "64:ff9b::203.0.114.7",
    "fd12:0:0:0:0:0:0:5",
    "2606:4700:0::5",
  ]) {
    expect(policy.judge(address)).toEqual({ allowed: false, what: "an address of this host itself" });
  }
  expect(policy.judge("10.0.0.6").allowed).toBe(true);
  expect(policy.judge("203.0.114.8").allowed).toBe(true);
});

test("only a policy made for an operator's own URLs lets in this host, and only where its setting holds it", () => {
  const isOwn = (address: string) => address === "10.0.0.5";
  const policy = policyOf(["127.0.0.1/32", "10.0.0.0/8"], { isOwn, mayAllowThisHost: true });
  for (const address of ["127.0.0.1", "::ffff:127.0.0.1", "10.0.0.5", "10.0.0.6"]) {
    expect([address, policy.judge(address).allowed]).toEqual([address, true]);
  }
  for (const address of ["127.0.0.2", "::1", "169.254.169.254", "192.168.0.1"]) {
    expect([address, policy.judge(address).allowed]).toEqual([address, false]);
  }
});

test("the setting is read anew for each judgement", () => {
  const allowed: string[] = [];
  const policy = createAddressPolicy({ allowPrivate: () => allowed, setting: "it", isOwn: notOurs });
  expect(policy.judge("10.0.0.1").allowed).toBe(false);
  allowed.push("10.0.0.0/8");
  expect(policy.judge("10.0.0.1").allowed).toBe(true);
});

test("what is dialled is the address in one spelling, and IPv4 where it is that", () => {
  const dialled = (address: string) => {
    const judgement = policyOf().judge(address);
    return judgement.allowed ? judgement.address : judgement.what;
  };
  expect(dialled("::ffff:1.1.1.1")).toBe("1.1.1.1" as never);
  expect(dialled("64:ff9b::1.1.1.1")).toBe("64:ff9b::101:101" as never);
  expect(dialled("2606:4700:0000:0:0:0:0:1111")).toBe("2606:4700::1111" as never);
});
