import { expect, test } from "bun:test";
import { hostName, isAllowed } from "../../../../src/gateway/egress/allow.ts";
import { readHead } from "../../../../src/gateway/egress/head.ts";

test("a name has one spelling, and what is no name has none", () => {
  expect(["Files.Test", "files.test.", "_dmarc.files.test", "a-b.test"].map(hostName)).toEqual([
    "files.test",
    "files.test",
    "_dmarc.files.test",
    "a-b.test",
  ]);
  const none = [
    "",
    ".",
    "a..test",
    "-a.test",
    "a_.-test",
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "[::1]",
    "::1",
    "a.test/x",
    "a.test#",
    "a test",
    "ａ.test",
    "a.test\u0000",
    `${"a".repeat(64)}.test`,
    `${"a.".repeat(150)}test`,
  ];
  for (const text of none) expect([text, hostName(text)]).toEqual([text, null]);
});

test("a host is itself, and a star is all below", () => {
  const allow = [
    { host: "files.test", port: 443 },
    { host: "*.below.test", port: 443 },
    { host: "odd.test", port: 8443 },
  ];
  const may = (host: string, port = 443) => isAllowed(allow, host, port);
  expect(["files.test", "a.below.test", "a.b.below.test"].map((host) => may(host))).toEqual([
    true,
    true,
    true,
  ]);
  expect(may("odd.test", 8443)).toBe(true);
  for (const host of [
    "below.test",
    "xbelow.test",
    "a.files.test",
    "files.test.evil",
    "odd.test",
    "test",
    "*.below.test.evil",
  ]) {
    expect([host, may(host)]).toEqual([host, false]);
  }
  expect(may("files.test", 8443)).toBe(false);
});

test("of a request's head no more is read than there is, and what two could read differently is refused", () => {
  const read = (text: string) => readHead(Buffer.from(text, "latin1"));
  const whole = "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\nProxy-Authorization: Basic eDp5\r\n\r\nafter";
  for (let length = 0; length < whole.length - "after".length; length++) {
    expect(read(whole.slice(0, length)).kind).toBe("incomplete");
  }
  expect(read(whole)).toMatchObject({
    kind: "connect",
    host: "a.test",
    port: 443,
    authorization: "Basic eDp5",
    rest: Buffer.from("after"),
  });
  expect(read("CONNECT [::1]:443 HTTP/1.1\r\n\r\n")).toMatchObject({ host: "[::1]" });
  const bad = [
    "CONNECT a.test:443 HTTP/2\r\n\r\n",
    "CONNECT a.test:443\r\n\r\n",
    "CONNECT  a.test:443 HTTP/1.1\r\n\r\n",
    "CONNECT a.test:0 HTTP/1.1\r\n\r\n",
    "CONNECT a.test:70000 HTTP/1.1\r\n\r\n",
    "CONNECT a.test:443 HTTP/1.1\r\n folded: x\r\n\r\n",
    "CONNECT a.test:443 HTTP/1.1\r\nHost : a\r\n\r\n",
    "CONNECT a.test:443 HTTP/1.1\nHost: a\r\n\r\n",
  ];
  for (const text of bad) expect([text, read(text).kind]).toEqual([text, "other"]);
});
