import { expect, test } from "bun:test";
import { createIndexes, type Resting } from "../../../../src/sandboxd/network/allocate.ts";

function start(count: number, restMs = 1000) {
  const clock = { now: 1_000_000 };
  const kept: { resting: Resting | null } = { resting: null };
  const store = {
    load: () => kept.resting,
    save: (resting: Resting) => {
      kept.resting = structuredClone(resting);
    },
  };
  return { clock, kept, open: () => createIndexes({ count, restMs, now: () => clock.now, store }) };
}

test("numbers go round, and none comes again before it has rested", () => {
  const { clock, open } = start(4);
  const indexes = open();
  expect([indexes.take(), indexes.take(), indexes.take()]).toEqual([0, 1, 2]);
  indexes.release(0);
  expect(indexes.take()).toBe(3);
  expect(indexes.take()).toBe(null);
  clock.now += 999;
  expect(indexes.take()).toBe(null);
  clock.now += 1;
  expect(indexes.take()).toBe(0);
});

test("one that was released goes to the end of the line, though it has rested", () => {
  const { clock, open } = start(3);
  const indexes = open();
  indexes.release(indexes.take() ?? -1);
  clock.now += 5000;
  expect([indexes.take(), indexes.take(), indexes.take()]).toEqual([1, 2, 0]);
});

test("a restart forgets neither the turn nor who rests, and those in use are claimed", () => {
  const { clock, open } = start(4);
  const first = open();
  expect([first.take(), first.take()]).toEqual([0, 1]);
  first.release(0);
  const second = open();
  second.claim(1);
  expect([second.take(), second.take(), second.take()]).toEqual([2, 3, null]);
  clock.now += 1000;
  expect(second.take()).toBe(0);
});

test("what is released twice, or was never taken, is nobody's", () => {
  const { open } = start(2);
  const indexes = open();
  indexes.release(1);
  indexes.release(7);
  expect([indexes.take(), indexes.take(), indexes.take()]).toEqual([0, 1, null]);
});

test("a clock that is set back makes nobody rest for longer, and a smaller subnet forgets what is beyond it", () => {
  const { clock, kept, open } = start(3);
  kept.resting = {
    next: 9,
    until: [
      [0, clock.now + 50_000],
      [8, clock.now + 10],
    ],
  };
  expect([open().take()]).toEqual([0]);
});

test("no number is anyone's twice in a long life", () => {
  const { clock, open } = start(16, 50);
  let indexes = open();
  const held = new Set<number>();
  const released = new Map<number, number>();
  let seed = 7;
  const random = (below: number) => (seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648) % below;
  for (let step = 0; step < 5000; step++) {
    clock.now += random(20);
    if (random(100) === 0) {
      indexes = open();
      for (const index of held) indexes.claim(index);
    }
    if (random(2) === 0) {
      const index = indexes.take();
      if (index === null) continue;
      expect(held.has(index)).toBe(false);
      expect(clock.now - (released.get(index) ?? 0)).toBeGreaterThanOrEqual(50);
      held.add(index);
    } else if (held.size > 0) {
      const index = [...held][random(held.size)] ?? -1;
      indexes.release(index);
      held.delete(index);
      released.set(index, clock.now);
    }
  }
});

test("a full disk makes no number anyone's", () => {
  const disk = { full: true };
  const save = () => {
    if (disk.full) throw new Error("ENOSPC");
  };
  const indexes = createIndexes({ count: 1, restMs: 0, now: () => 0, store: { load: () => null, save } });
  expect(() => indexes.take()).toThrow("ENOSPC");
  disk.full = false;
  expect(indexes.take()).toBe(0);
});
