import { expect, test } from "bun:test";
import { createSpace } from "../../../src/gateway/space.ts";
import { runId } from "../../../src/ids.ts";

const [one, other, third] = [runId.make(), runId.make(), runId.make()];

test("what is held is bounded, of a run and of all, and of each some is sure", () => {
  const space = createSpace({ all: 185, ofRun: 100, sure: 20 });
  const [first, second] = [space.share(one), space.share(one)];
  expect(first.resize(90)).toBe(true);
  expect(second.resize(20)).toBe(false);
  expect([space.bytes, space.isCrowded(one), space.isCrowded(third)]).toEqual([90, true, false]);
  expect(second.resize(10)).toBe(true);
  // It holds what it had.
  expect(first.resize(91)).toBe(false);
  using theirs = space.share(other);
  expect([theirs.resize(90), theirs.resize(85)]).toEqual([false, true]);
  // All is taken, and others have theirs all the same.
  using late = space.share(third);
  expect([late.resize(21), late.resize(10), space.isCrowded(third)]).toEqual([false, true, false]);
  expect([late.resize(20), space.isCrowded(third)]).toEqual([true, true]);
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  expect([space.bytes, space.isCrowded(one)]).toEqual([115, false]);
  second[Symbol.dispose]();
  theirs.resize(0);
  late.resize(0);
  expect(space.bytes).toBe(0);
});

test("who has given its part back takes nothing any more: nobody would give that back", () => {
  const space = createSpace({ all: 100, ofRun: 100, sure: 20 });
  const share = space.share(one);
  share[Symbol.dispose]();
  expect([share.resize(10), share.resize(0), space.bytes]).toEqual([false, true, 0]);
});

test("whatever order holders come and go in, the bounds are kept and nothing is left", () => {
  const limits = { all: 500, ofRun: 200, sure: 50 };
  const space = createSpace(limits);
  const holders = [one, other, third].flatMap((run) =>
    Array.from({ length: 5 }, () => ({ run, share: space.share(run), bytes: 0 })),
  );
  for (let n = 0; n < 5000; n++) {
    const holder = holders[Math.floor(Math.random() * holders.length)]!;
    const bytes = Math.floor(Math.random() * 150);
    if (holder.share.resize(bytes)) holder.bytes = bytes;
    else expect(bytes).toBeGreaterThan(holder.bytes);
    const sums = [one, other, third].map((run) =>
      holders.filter((one) => one.run === run).reduce((sum, { bytes: own }) => sum + own, 0),
    );
    const all = sums.reduce((sum, own) => sum + own, 0);
    expect(space.bytes).toBe(all);
    expect(Math.max(...sums)).toBeLessThanOrEqual(limits.ofRun);
    expect(all).toBeLessThanOrEqual(limits.all + 2 * limits.sure);
  }
  for (const { share } of holders) share[Symbol.dispose]();
  expect(space.bytes).toBe(0);
});
