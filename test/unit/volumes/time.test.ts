import { expect, test } from "bun:test";
import { isoTime } from "../../../src/volumes/time.ts";

const S = 1_000_000_000n;

test("has microseconds, always six digits of them", () => {
  expect(isoTime(0n)).toBe("1970-01-01T00:00:00.000000Z");
  expect(isoTime(1_700_000_000n * S + 1_999n)).toBe("2023-11-14T22:13:20.000001Z");
  expect(isoTime(1_700_000_000n * S + 999_999_999n)).toBe("2023-11-14T22:13:20.999999Z");
  expect(isoTime(-1n)).toBe("1969-12-31T23:59:59.999999Z");
});

test("stays within years of four digits, whatever a tenant sets", () => {
  expect(isoTime(2n ** 62n)).toBe("2116-02-20T23:53:38.427387Z");
  expect(isoTime(10n ** 12n * S)).toBe("9999-12-31T23:59:59.000000Z");
  expect(isoTime(-(10n ** 12n) * S)).toBe("0001-01-01T00:00:00.000000Z");
});

test("sorts as text as the times do", () => {
  const times = Array.from({ length: 500 }, () => BigInt(Math.floor((Math.random() - 0.3) * 1e18)));
  const sorted = times.toSorted((a, b) => (a < b ? -1 : 1)).map(isoTime);
  expect(times.map(isoTime).toSorted()).toEqual(sorted);
});
