import { expect, test } from "bun:test";
import { beyondFair } from "../../../src/net/crowd.ts";

const of = (source: string, count: number) => Array.from({ length: count }, (_, fd) => ({ fd, source }));
const ended = (all: { fd: number; source: string }[], most: number) => {
  const counts: Record<string, number> = {};
  for (const { source } of beyondFair(all, most)) counts[source] = (counts[source] ?? 0) + 1;
  return counts;
};

test("who has the most connections loses the most, and who has few loses none", () => {
  expect(ended([...of("a", 5), ...of("b", 100), ...of("c", 20)], 75)).toEqual({ b: 50 });
  expect(ended([...of("a", 5), ...of("b", 100), ...of("c", 90)], 75)).toEqual({ b: 65, c: 55 });
  expect(ended([...of("a", 100)], 75)).toEqual({ a: 25 });
  expect(ended([...of("a", 10), ...of("b", 10)], 75)).toEqual({});
  expect(ended([], 75)).toEqual({});
  // A network in which everyone has one.
  const many = Array.from({ length: 100 }, (_, fd) => ({ fd, source: String(fd) }));
  expect(beyondFair(many, 75)).toHaveLength(25);
});
