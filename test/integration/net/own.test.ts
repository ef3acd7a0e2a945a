import { expect, test } from "bun:test";
import { networkInterfaces } from "node:os";
import { isOwnAddress } from "../../../src/net/own.ts";

test("loopback and every address of every interface are this host's own", () => {
  const here = Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    // A link-local one is this host's on one link only, and is denied anyway.
    .filter(({ address }) => !address.startsWith("fe80:"))
    .map(({ address }) => address);
  expect(here).toContain("127.0.0.1");
  expect(here.filter((address) => !isOwnAddress(address))).toEqual([]);
});

test("others are not, whether a way leads there or none", () => {
  for (const address of [
    "1.1.1.1",
    "192.0.2.1",
    "255.255.255.255",
    "0.0.0.1",
    "2606:4700::1111",
    "2001:db8::1",
    "ff02::1",
  ]) {
    expect([address, isOwnAddress(address)]).toEqual([address, false]);
  }
});
