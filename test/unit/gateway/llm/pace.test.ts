import { expect, test } from "bun:test";
import { createPace } from "../../../../src/gateway/llm/pace.ts";
import type { Refused } from "../../../../src/gateway/llm/refusal.ts";

test("a minute's requests at once, then one each time that one has come back", () => {
  let at = 0;
  const pace = createPace(() => at);
  const take = (): number => {
    try {
      pace.take(6);
      return 0;
    } catch (error) {
      return (error as Refused).retryAfterS ?? -1;
    }
  };
  expect(Array.from({ length: 8 }, take)).toEqual([0, 0, 0, 0, 0, 0, 10, 10]);
  at = 9_000;
  expect(take()).toBe(1);
  at = 10_000;
  expect([take(), take()]).toEqual([0, 10]);
  at = 3_600_000;
  expect(Array.from({ length: 7 }, take)).toEqual([0, 0, 0, 0, 0, 0, 10]);
  // A clock that is set back gives nothing away.
  at = 0;
  expect(take()).toBeGreaterThan(0);
});

test("a limit that nobody has set is no danger to others", () => {
  const pace = createPace(() => 0);
  for (let n = 0; n < 6000; n += 1) pace.take(null);
  expect(() => pace.take(null)).toThrow("6000 requests a minute");
});
