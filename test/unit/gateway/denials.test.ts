import { expect, jest, test } from "bun:test";
import { createDenials, type Denial } from "../../../src/gateway/denials.ts";

function counted() {
  const records: (Denial & { count: number })[] = [];
  const denials = createDenials((record) => records.push(record));
  const deny = (reason: string, detail: string) => denials.deny({ lane: "egress", reason, detail });
  return { records, deny, flush: () => denials.flush() };
}

test("the first of a kind is told at once, those alike that follow it together", () => {
  const { records, deny, flush } = counted();
  for (let time = 0; time < 500; time++) deny("host", "a.test:443");
  deny("host", "b.test:443");
  expect(records.map(({ detail, count }) => [detail, count])).toEqual([
    ["a.test:443", 1],
    ["b.test:443", 1],
  ]);
  flush();
  expect(records.map(({ detail, count }) => [detail, count]).slice(2)).toEqual([["a.test:443", 499]]);
  deny("host", "a.test:443");
  expect(records).toHaveLength(4);
});

test("however different they are, they become few, and none goes uncounted", () => {
  const { records, deny, flush } = counted();
  for (let name = 0; name < 100_000; name++)
    deny(name % 2 === 0 ? "host" : "sni", `${name}.test ${"x".repeat(999)}`);
  flush();
  expect(records.length).toBeLessThan(30);
  expect(records.reduce((sum, { count }) => sum + count, 0)).toBe(100_000);
  for (const { detail } of records) expect(detail.length).toBeLessThanOrEqual(300);
});

test("what a run chose to be named shows as it is, and does nothing to a terminal", () => {
  const { records, deny } = counted();
  deny("host", "\u001b]0;title\u0007\r\n\u009b2J bücher.test");
  expect(records[0]?.detail).toBe("?]0;title????2J bücher.test");
});

test("what was counted is told by itself after a while", () => {
  jest.useFakeTimers();
  try {
    const { records, deny } = counted();
    deny("token", "wrong");
    deny("token", "wrong");
    expect(records).toHaveLength(1);
    jest.advanceTimersByTime(10_000);
    expect(records.map(({ count }) => count)).toEqual([1, 1]);
  } finally {
    jest.useRealTimers();
  }
});
