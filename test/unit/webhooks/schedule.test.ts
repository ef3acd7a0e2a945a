import { expect, test } from "bun:test";
import { MAX_ATTEMPTS, nextDelay, parseRetryAfter } from "../../../src/webhooks/schedule.ts";

const NOW = Date.parse("2026-11-26T12:00:00Z");

test("each delay is its own, a tenth more or less, and after ten attempts there is none", () => {
  const hours = [5 / 3600, 5 / 60, 0.5, 2, 5, 10, 14, 20, 24];
  for (const [index, hour] of hours.entries()) {
    const at = (random: number) => (nextDelay(index + 1, 0, () => random) ?? Number.NaN) / 3_600_000;
    expect(at(0)).toBeCloseTo(hour * 0.9, 6);
    expect(at(0.5)).toBeCloseTo(hour, 6);
    expect(at(0.999999)).toBeCloseTo(hour * 1.1, 3);
  }
  expect(nextDelay(MAX_ATTEMPTS, 0, () => 0.5)).toBeNull();
  expect(nextDelay(MAX_ATTEMPTS, 60_000, () => 0.5)).toBeNull();
});

test("what the endpoint asks for can only make it later", () => {
  expect(nextDelay(1, 60_000, () => 0.5)).toBe(60_000);
  expect(nextDelay(3, 60_000, () => 0.5)).toBe(30 * 60_000);
});

test("Retry-After: seconds or a date, within a day, and nothing else", () => {
  expect(parseRetryAfter("120", NOW)).toBe(120_000);
  expect(parseRetryAfter("Thu, 26 Nov 2026 12:01:00 GMT", NOW)).toBe(60_000);
  for (const none of [null, "", "soon", "-5", "1e9x", "Thu, 26 Nov 2020 12:01:00 GMT"])
    expect(parseRetryAfter(none, NOW)).toBe(0);
  for (const long of ["999999999", "9999999999999", "Thu, 26 Nov 2099 12:01:00 GMT"])
    expect(parseRetryAfter(long, NOW)).toBeLessThanOrEqual(86_400_000);
});
