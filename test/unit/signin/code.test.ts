import { expect, test } from "bun:test";
import {
  hashDeviceCode,
  hashUserCode,
  makeDeviceCode,
  makeUserCode,
  readUserCode,
  shownUserCode,
} from "../../../src/signin/code.ts";

test("a user code is eight letters, each of the twenty about as often at each place", () => {
  const seen = new Map<string, number>();
  const made = 20_000;
  for (let n = 0; n < made; n++) {
    const code = makeUserCode();
    expect(code).toMatch(/^[BCDFGHJKLMNPQRSTVWXZ]{8}$/);
    for (const [at, letter] of code.split("").entries()) {
      seen.set(`${at}${letter}`, (seen.get(`${at}${letter}`) ?? 0) + 1);
    }
  }
  expect(seen.size).toBe(160);
  // 1000 each: ten standard deviations.
  for (const count of seen.values()) expect(Math.abs(count - made / 20)).toBeLessThan(310);
});

test("it is read however it was typed, and nothing else is", () => {
  const code = makeUserCode();
  const shown = shownUserCode(code);
  expect(shown).toMatch(/^[A-Z]{4}-[A-Z]{4}$/);
  for (const typed of [shown, code, shown.toLowerCase(), ` ${shown} `, code.split("").join(" ")]) {
    expect(readUserCode(typed)).toBe(code);
  }
  for (const typed of [
    "",
    "BCDF-GHJ",
    "BCDF-GHJKL",
    "ABCD-EFGH",
    "BCDF-GH0K",
    "BCDF\0GHJK",
    "<script>",
    "ＢCDFGHJK",
  ]) {
    expect(readUserCode(typed)).toBeNull();
  }
});

test("hashes tell codes apart; a user code's depends on the key too", () => {
  const [key, other] = [new Uint8Array(32).fill(1), new Uint8Array(32).fill(2)];
  const code = makeUserCode();
  expect(hashUserCode(key, code)).toMatch(/^[0-9a-f]{64}$/);
  expect(hashUserCode(key, code)).toBe(hashUserCode(key, code));
  expect(hashUserCode(key, code)).not.toBe(hashUserCode(other, code));
  const device = makeDeviceCode();
  expect(Buffer.from(device, "base64url")).toHaveLength(32);
  expect(hashDeviceCode(device)).toMatch(/^[0-9a-f]{64}$/);
  for (const bad of ["", device.slice(1), `${device}A`, `${device} `, "x".repeat(1000)]) {
    expect(hashDeviceCode(bad)).toBeNull();
  }
});
