import { expect, test } from "bun:test";
import { sinceOf } from "../../../src/cli/since.ts";

const NOW = Date.parse("2026-11-26T20:00:00.000Z");

test("times ago, now, and times as they are", () => {
  const known: Record<string, string> = {
    now: "2026-11-26T20:00:00.000Z",
    "30s": "2026-11-26T19:59:30.000Z",
    "5m": "2026-11-26T19:55:00.000Z",
    "1h30m": "2026-11-26T18:30:00.000Z",
    "2d4h15m": "2026-11-24T15:45:00.000Z",
    "999999999d": "1970-01-01T00:00:00.000Z",
    "2026-11-26": "2026-11-26",
    "2026-11-26T20:18:51.123456Z": "2026-11-26T20:18:51.123456Z",
  };
  for (const [text, expected] of Object.entries(known))
    expect([text, sinceOf(text, NOW)]).toEqual([text, expected]);
});

test("anything else is refused", () => {
  for (const text of ["", "5", "m", "5 m", "5w", "-5m", "5m!", "yesterday", "1.5h", "5M"]) {
    expect(() => sinceOf(text, NOW)).toThrow("--since wants");
  }
});
