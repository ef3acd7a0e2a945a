import { expect, test } from "bun:test";
import { isDue } from "../../../src/prove/due.ts";

const HOUR = 60 * 60_000;
const held = { passed: true, overridden: false };
const at = (hours: number) => ({ at: hours * HOUR, ...held });
const now = (hours: number, everyH = 24) => ({ startedAt: 10 * HOUR, everyH, now: hours * HOUR });

test("the walls are tried after a start, and then by the hours", () => {
  expect(isDue({ at: null, ...held }, now(10))).toBe(true);
  expect(isDue(at(9), now(10))).toBe(true);
  expect(isDue(at(11), now(12))).toBe(false);
  expect(isDue(at(11), now(34))).toBe(false);
  // The timer need not come to the minute.
  expect(isDue(at(11), now(34.9))).toBe(true);
});

test("0 hours: only after a start", () => {
  expect(isDue(at(9), now(10, 0))).toBe(true);
  expect(isDue(at(11), now(5000, 0))).toBe(false);
});

test("while they fail they are tried again, unless the operator lets runs begin", () => {
  expect(isDue({ at: 11 * HOUR, passed: false, overridden: false }, now(11.2, 0))).toBe(true);
  expect(isDue({ at: 11 * HOUR, passed: false, overridden: true }, now(11.2))).toBe(false);
});
