import { describe, expect, test } from "bun:test";
import { createBuckets, rateOf, type Rate } from "../../../../src/api/http/buckets.ts";
import { seededRandom } from "../../../fixtures/random.ts";

function bucketsOf(rate: Rate | null, most = 1000) {
  const clock = { ms: 0 };
  const setting = { rate };
  const buckets = createBuckets({ rate: () => setting.rate, now: () => clock.ms, most });
  return { clock, setting, buckets, allows: (name: string) => buckets.take(name)?.allowed };
}

/** How many of `calls` calls at once are let through. */
function burst(allows: (name: string) => boolean | undefined, name: string, calls: number): number {
  return Array.from({ length: calls }, () => allows(name)).filter((allowed) => allowed === true).length;
}

test("settings", () => {
  expect(rateOf("0")).toBeNull();
  expect(["1000/s", "300/m", "20/h"].map(rateOf)).toEqual([
    { calls: 1000, windowS: 1 },
    { calls: 300, windowS: 60 },
    { calls: 20, windowS: 3600 },
  ]);
});

describe("a bucket", () => {
  test("holds the calls of its window, and gets them back evenly", () => {
    for (const rate of [
      { calls: 1, windowS: 1 },
      { calls: 7, windowS: 60 },
      { calls: 1000, windowS: 1 },
      { calls: 999_999, windowS: 3600 },
    ]) {
      const { clock, allows } = bucketsOf(rate);
      const eachMs = (rate.windowS * 1000) / rate.calls;
      expect(burst(allows, "a", rate.calls + 5)).toBe(rate.calls);
      clock.ms += eachMs * 0.9;
      expect(allows("a")).toBe(false);
      clock.ms += eachMs * 0.2;
      expect([allows("a"), allows("a")]).toEqual([true, false]);
      clock.ms += rate.windowS * 10_000;
      expect(burst(allows, "a", rate.calls + 5)).toBe(rate.calls);
    }
  });

  test("says what is left and when to come again", () => {
    const { clock, buckets } = bucketsOf({ calls: 3, windowS: 60 });
    const rate = { calls: 3, windowS: 60 };
    expect([1, 2, 3, 4].map(() => buckets.take("a"))).toEqual([
      { rate, allowed: true, remaining: 2, resetS: 20, retryAfterS: 0 },
      { rate, allowed: true, remaining: 1, resetS: 40, retryAfterS: 0 },
      { rate, allowed: true, remaining: 0, resetS: 60, retryAfterS: 0 },
      { rate, allowed: false, remaining: 0, resetS: 60, retryAfterS: 20 },
    ]);
    clock.ms += 20_000;
    expect(buckets.take("a")).toMatchObject({ allowed: true, remaining: 0, resetS: 60 });
  });

  test("is one name's", () => {
    const { allows } = bucketsOf({ calls: 2, windowS: 1 });
    expect(burst(allows, "a", 10)).toBe(2);
    expect(burst(allows, "b", 10)).toBe(2);
  });

  test("never lets more through than its rate, in any order of calls and pauses", () => {
    const random = seededRandom(7);
    for (let round = 0; round < 50; round++) {
      const calls = 1 + random.int(20);
      const { clock, allows } = bucketsOf({ calls, windowS: 1 });
      const taken: number[] = [];
      for (let step = 0; step < 300; step++) {
        clock.ms += random.int(2) === 0 ? 0 : random.int(200);
        if (allows("a") === true) taken.push(clock.ms);
      }
      expect(taken.length).toBeGreaterThan(calls);
      // Any stretch of t seconds has at most what the bucket held and what came in that time.
      const excess = taken.flatMap((from, first) =>
        taken.slice(first).map((to, count) => count + 1 - calls - ((to - from) / 1000) * calls),
      );
      expect(Math.max(...excess)).toBeLessThan(0.02);
    }
  });

  test("a new rate holds at once, and nobody is kept out longer than its window", () => {
    const { clock, setting, buckets, allows } = bucketsOf({ calls: 2, windowS: 3600 });
    expect(burst(allows, "a", 5)).toBe(2);
    setting.rate = { calls: 10, windowS: 1 };
    expect(allows("a")).toBe(false);
    clock.ms += 1000;
    expect(burst(allows, "a", 20)).toBeGreaterThanOrEqual(0);
    setting.rate = null;
    expect(buckets.take("a")).toBeNull();
  });
});

describe("many names", () => {
  test("take no more than the memory set for them, and full buckets go first", () => {
    const { clock, buckets, allows } = bucketsOf({ calls: 2, windowS: 1 }, 100);
    // One who calls all the time stays known among a hundred thousand who come once.
    let allowed = 0;
    for (let step = 0; step < 100_000; step++) {
      clock.ms += 25;
      allows(`passer-by ${step}`);
      if (allows("steady") === true) allowed++;
      expect(buckets.size()).toBeLessThanOrEqual(100);
    }
    const seconds = clock.ms / 1000;
    expect(allowed).toBeLessThanOrEqual(2 * seconds + 2);
    expect(allowed).toBeGreaterThan(1.9 * seconds);
  });

  test("no bucket is full: still bounded, and whoever pushed another out gains nothing but a new bucket", () => {
    const { buckets, allows } = bucketsOf({ calls: 1, windowS: 3600 }, 100);
    for (let name = 0; name < 10_000; name++) expect(allows(String(name))).toBe(true);
    expect(buckets.size()).toBe(100);
  });
});
