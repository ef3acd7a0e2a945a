import { expect, test } from "bun:test";
import { generateKeyPairSync } from "node:crypto";
import { keyIdOf, newSealKey, openWith, publicKeyOf, sealTo } from "../../../src/protocol/seal.ts";

const SECRET = Buffer.from(JSON.stringify({ secret: "sk-ant-api03-…" }));

test("what is sealed to a key is opened by it, and shows nothing of what it holds", async () => {
  const key = newSealKey();
  const sealed = await sealTo(publicKeyOf(key), SECRET, "cred-a");
  expect(Buffer.from(sealed).includes("sk-ant")).toBe(false);
  expect(Buffer.from(await openWith(key, sealed, "cred-a")).toString()).toBe(SECRET.toString());
  const again = await sealTo(publicKeyOf(key), SECRET, "cred-a");
  expect(Buffer.from(again).equals(sealed)).toBe(false);
});

test("another key, another credential and a changed byte do not open it", async () => {
  const key = newSealKey();
  const sealed = await sealTo(publicKeyOf(key), SECRET, "cred-a");
  expect(openWith(newSealKey(), sealed, "cred-a")).rejects.toThrow();
  expect(openWith(key, sealed, "cred-b")).rejects.toThrow();
  for (const at of [0, 1, 40, sealed.length - 1]) {
    const changed = new Uint8Array(sealed);
    changed[at] = (changed[at] ?? 0) ^ 1;
    expect(openWith(key, changed, "cred-a")).rejects.toThrow();
  }
  for (const length of [0, 1, 33, sealed.length - 1]) {
    expect(openWith(key, sealed.subarray(0, length), "cred-a")).rejects.toThrow();
  }
});

test("the public key is the one that others compute", async () => {
  const { privateKey } = generateKeyPairSync("x25519");
  const { d = "", x = "" } = privateKey.export({ format: "jwk" });
  const publicKey = publicKeyOf(Buffer.from(d, "base64url"));
  expect(Buffer.from(publicKey).toString("base64url")).toBe(x);
  expect(keyIdOf(publicKey)).toMatch(/^[0-9a-f]{16}$/);
});
