import { createHash } from "node:crypto";
import { expect, test } from "bun:test";
import { isTokenAmong, shownTokens } from "../../../src/gateway/caller.ts";

const TOKEN = `sk-ant-${"a1".repeat(32)}`;
const sha256 = createHash("sha256").update(TOKEN).digest("hex");
const isShown = (headers: [string, string][]) => isTokenAmong(shownTokens(new Headers(headers)), sha256);

test("a token is shown as models' clients and git do", () => {
  expect(isShown([["x-api-key", TOKEN]])).toBe(true);
  expect(isShown([["authorization", `Bearer ${TOKEN}`]])).toBe(true);
  expect(isShown([["Authorization", `bearer  ${TOKEN} `]])).toBe(true);
  expect(isShown([["authorization", `Basic ${btoa(`x-access-token:${TOKEN}`)}`]])).toBe(true);
  expect(
    isShown([
      ["x-api-key", "another"],
      ["authorization", `Bearer ${TOKEN}`],
    ]),
  ).toBe(true);
});

test("what is nearly it is not it", () => {
  const wrong: [string, string][][] = [
    [],
    [["x-api-key", ""]],
    [["x-api-key", TOKEN.slice(0, -1)]],
    [["x-api-key", `${TOKEN}x`]],
    [["x-api-key", TOKEN.toUpperCase()]],
    [["x-api-key", sha256]],
    [
      ["x-api-key", TOKEN],
      ["x-api-key", TOKEN],
    ],
    [["authorization", TOKEN]],
    [["authorization", `Digest ${TOKEN}`]],
    [["authorization", `Basic ${btoa(TOKEN)}`]],
    [["authorization", `Basic ${btoa(`${TOKEN}:`)}`]],
    [["cookie", TOKEN]],
  ];
  for (const headers of wrong) expect([headers, isShown(headers)]).toEqual([headers, false]);
});
