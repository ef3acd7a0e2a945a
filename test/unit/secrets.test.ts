import { expect, test } from "bun:test";
import { createSecrets } from "../../src/secrets.ts";

const secrets = createSecrets(new Uint8Array(32).fill(1));
const secret = new TextEncoder().encode("whsec_xyz");

test("what is sealed opens, and is another each time", () => {
  const sealed = secrets.seal("webhook", secret, "wh-1");
  expect(secrets.open("webhook", sealed, "wh-1")).toEqual(Buffer.from(secret));
  expect(secrets.seal("webhook", secret, "wh-1")).not.toEqual(sealed);
  expect(Buffer.from(sealed).includes(Buffer.from(secret))).toBe(false);
});

test("it opens for nothing else", () => {
  const sealed = secrets.seal("webhook", secret, "wh-1");
  expect(() => secrets.open("webhook", sealed, "wh-2")).toThrow();
  expect(() => secrets.open("other", sealed, "wh-1")).toThrow();
  expect(() => createSecrets(new Uint8Array(32)).open("webhook", sealed, "wh-1")).toThrow();
});

test("a changed byte anywhere is found", () => {
  const sealed = secrets.seal("webhook", secret, "wh-1");
  for (let at = 0; at < sealed.length; at++) {
    const changed = Uint8Array.from(sealed);
    changed[at]! ^= 1;
    expect(() => secrets.open("webhook", changed, "wh-1")).toThrow();
  }
  expect(() => secrets.open("webhook", sealed.subarray(0, 20), "wh-1")).toThrow();
});

test("each purpose has a key of its own", () => {
  expect(secrets.derive("a")).not.toEqual(secrets.derive("b"));
  expect(secrets.derive("a")).toEqual(createSecrets(new Uint8Array(32).fill(1)).derive("a"));
});
