import { expect, test } from "bun:test";
import { networkInterfaces } from "node:os";
import { createOwnAddresses } from "../../../src/net/own.ts";

test("loopback and every address of every interface are this host's own", () => {
  const here = Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .map(({ address }) => address);
  expect(here).toContain("127.0.0.1");
  const isOwn = createOwnAddresses();
  expect([...here, "127.3.4.5"].filter((address) => !isOwn(address))).toEqual([]);
});

test("others are not, whether a way leads there or none", () => {
  const others = ["1.1.1.1", "192.0.2.1", "0.0.0.1", "0.0.0.0", "2606:4700::1111", "2001:db8::1", "ff02::1"];
  expect(others.filter(createOwnAddresses())).toEqual([]);
});
