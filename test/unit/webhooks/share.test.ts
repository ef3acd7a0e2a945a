import { expect, test } from "bun:test";
import { share } from "../../../src/webhooks/share.ts";

const applicant = (name: string, room: number, more: { inFlight?: number; isSlow?: boolean } = {}) => ({
  name,
  room,
  inFlight: more.inFlight ?? 0,
  isSlow: more.isSlow ?? false,
});

const named = (given: ReadonlyMap<{ name: string }, number>) =>
  Object.fromEntries([...given].map(([{ name }, count]) => [name, count]));

test("all get what they have room for while there is enough", () => {
  const given = share([applicant("a", 3), applicant("b", 1), applicant("none", 0)], {
    free: 10,
    freeSlow: 5,
  });
  expect(named(given)).toEqual({ a: 3, b: 1 });
});

test("what is scarce goes one each in turn, the least busy first", () => {
  const all = [applicant("busy", 9, { inFlight: 20 }), applicant("a", 9), applicant("b", 9)];
  expect(named(share(all, { free: 2, freeSlow: 0 }))).toEqual({ a: 1, b: 1 });
  expect(named(share(all, { free: 7, freeSlow: 0 }))).toEqual({ a: 3, b: 2, busy: 2 });
  expect(named(share(all, { free: 0, freeSlow: 0 }))).toEqual({});
});

test("slow ones never get more than their part, and the others need not wait for it", () => {
  const slow = Array.from({ length: 50 }, (_, n) => applicant(`slow${n}`, 32, { isSlow: true }));
  const given = named(share([...slow, applicant("good", 32, { inFlight: 30 })], { free: 100, freeSlow: 60 }));
  expect(given["good"]).toBe(32);
  expect(Object.values(given).reduce((sum, count) => sum + count, 0)).toBe(32 + 60);
});
