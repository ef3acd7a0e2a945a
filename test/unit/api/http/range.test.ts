import { expect, test } from "bun:test";
import { namesTag, rangeOf } from "../../../../src/api/http/range.ts";

test("reads one range of bytes", () => {
  expect(rangeOf("bytes=0-0", 10)).toEqual({ start: 0, end: 1 });
  expect(rangeOf("bytes=2-5", 10)).toEqual({ start: 2, end: 6 });
  expect(rangeOf("bytes=2-", 10)).toEqual({ start: 2, end: 10 });
  expect(rangeOf("bytes=2-999", 10)).toEqual({ start: 2, end: 10 });
  expect(rangeOf("bytes=-3", 10)).toEqual({ start: 7, end: 10 });
  expect(rangeOf("bytes=-999", 10)).toEqual({ start: 0, end: 10 });
});

test("tells what no part of the file can satisfy", () => {
  for (const header of ["bytes=10-", "bytes=10-20", "bytes=-0"]) {
    expect(rangeOf(header, 10)).toBe("unsatisfiable");
  }
  expect(rangeOf("bytes=0-", 0)).toBe("unsatisfiable");
  expect(rangeOf("bytes=-5", 0)).toBe("unsatisfiable");
});

test("ignores what it does not understand", () => {
  for (const header of [
    null,
    "",
    "bytes=-",
    "bytes=5-2",
    "bytes=0-1,3-4",
    "lines=0-1",
    "bytes=a-b",
    "bytes 0-1",
  ]) {
    expect(rangeOf(header, 10)).toBeNull();
  }
});

test("compares entity tags, weakly and in lists", () => {
  expect(namesTag('"a"', '"a"')).toBe(true);
  expect(namesTag('W/"a"', '"a"')).toBe(true);
  expect(namesTag('"x", "a"', '"a"')).toBe(true);
  expect(namesTag("*", '"a"')).toBe(true);
  expect(namesTag('"b"', '"a"')).toBe(false);
});
