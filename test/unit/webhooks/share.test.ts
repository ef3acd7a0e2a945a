import { expect, test } from "bun:test";
import { share, type Applicant, type Free } from "../../../src/webhooks/share.ts";

const applicant = (name: string, room: number, more: Partial<Applicant> = {}) => ({
  name,
  room,
  owner: "one",
  inFlight: 0,
  lastAt: 0,
  isSlow: false,
  ...more,
});

const PLENTY: Free = { all: 1000, slow: 1000 };

function shared(
  applicants: readonly ReturnType<typeof applicant>[],
  free: Free,
  owned: Readonly<Record<string, Free>> = {},
) {
  const given = share(applicants, free, (owner) => owned[owner] ?? PLENTY);
  return Object.fromEntries([...given].map(([{ name }, count]) => [name, count]));
}

test("all get what they have room for while there is enough", () => {
  const all = [applicant("a", 3), applicant("b", 1), applicant("none", 0)];
  expect(shared(all, { all: 10, slow: 5 })).toEqual({ a: 3, b: 1 });
});

test("what is scarce goes one each in turn, the least busy first", () => {
  const all = [applicant("busy", 9, { inFlight: 20 }), applicant("a", 9), applicant("b", 9)];
  expect(shared(all, { all: 2, slow: 0 })).toEqual({ a: 1, b: 1 });
  expect(shared(all, { all: 7, slow: 0 })).toEqual({ a: 3, b: 2, busy: 2 });
  expect(shared(all, { all: 0, slow: 0 })).toEqual({});
});

test("of equally busy ones, those that had no turn for longest go first", () => {
  const all = [
    applicant("late", 1, { lastAt: 9 }),
    applicant("never", 1),
    applicant("early", 1, { lastAt: 5 }),
  ];
  expect(shared(all, { all: 2, slow: 0 })).toEqual({ never: 1, early: 1 });
});

test("slow ones never get more than their part, and the others need not wait for it", () => {
  const slow = Array.from({ length: 50 }, (_, n) => applicant(`slow${n}`, 32, { isSlow: true }));
  const given = shared([...slow, applicant("good", 32, { inFlight: 30 })], { all: 100, slow: 60 });
  expect(given["good"]).toBe(32);
  expect(Object.values(given).reduce((sum, count) => sum + count, 0)).toBe(32 + 60);
});

test("an owner's many get no more than another's one, the owner with the least under way goes first", () => {
  const many = Array.from({ length: 50 }, (_, n) => applicant(`many${n}`, 1, { owner: "many" }));
  const all = [...many, applicant("lone", 4, { owner: "lone", inFlight: 2 })];
  expect(shared(all, { all: 8, slow: 0 })).toMatchObject({ lone: 4, many0: 1, many3: 1 });
  const owned = { many: { all: 10, slow: 0 }, lone: { all: 11, slow: 0 } };
  expect(shared(all, { all: 1, slow: 0 }, owned)).toEqual({ lone: 1 });
});

test("no owner gets more than is left of its own part, nor of that for slow ones", () => {
  const all = [
    applicant("quick", 9),
    applicant("slow", 9, { isSlow: true }),
    applicant("other", 9, { owner: "b" }),
  ];
  const given = shared(all, PLENTY, { one: { all: 7, slow: 2 } });
  expect(given).toEqual({ quick: 5, slow: 2, other: 9 });
});
