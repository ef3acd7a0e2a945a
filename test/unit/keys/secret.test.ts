import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { hashOf, isApiKey, makeApiKey } from "../../../src/keys/secret.ts";

test("a key hides 256 random bits behind what its prefix shows", () => {
  for (const [scope, start] of [
    ["workspace", "trove-sk-"],
    ["admin", "trove-sk-admin-"],
  ] as const) {
    const { apiKey, prefix } = makeApiKey(scope);
    expect(apiKey).toMatch(new RegExp(`^${start}[A-Za-z0-9]{48}$`));
    expect(apiKey.startsWith(prefix)).toBe(true);
    const hidden = apiKey.length - prefix.length;
    expect(hidden * Math.log2(62)).toBeGreaterThanOrEqual(256);
  }
});

test("no two keys are the same, and every character of the alphabet comes up", () => {
  const keys = Array.from({ length: 500 }, () => makeApiKey("workspace").apiKey);
  expect(new Set(keys).size).toBe(500);
  expect(new Set(keys.map((key) => key.slice("trove-sk-".length)).join("")).size).toBe(62);
});

test("what is stored is the SHA-256 of the whole key", () => {
  const { apiKey, hash } = makeApiKey("admin");
  expect(hash).toBe(createHash("sha256").update(apiKey).digest("hex"));
  expect(hashOf(`${apiKey}x`)).not.toBe(hash);
});

test("only a whole key has the form of one", () => {
  const { apiKey } = makeApiKey("workspace");
  expect(isApiKey(apiKey)).toBe(true);
  for (const bad of [
    "",
    "trove-sk-",
    apiKey.slice(1),
    `${apiKey}a`,
    `${apiKey}\n`,
    apiKey.replace("sk", "pk"),
  ]) {
    expect(isApiKey(bad)).toBe(false);
  }
});
