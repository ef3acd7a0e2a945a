import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openLogFile } from "../../../src/kernel/log-file.ts";
import { createLineWriter } from "../../../src/kernel/stderr.ts";

const dir = mkdtempSync(join(tmpdir(), "cofferdam-log-"));
afterAll(() => rmSync(dir, { recursive: true }));

const read = (name: string) => readFileSync(join(dir, name), "utf8");
const writer = (name: string, maxBytes: number) =>
  createLineWriter({ sink: openLogFile(join(dir, name), maxBytes), gap: (lost) => `${lost} lost\n` });

test("a log of any length is two files of bounded size, with the newest lines whole and in order", () => {
  const lines = writer("log", 1000);
  for (let n = 0; n < 1000; n += 1) lines.write(`line ${n}\n`, true);
  expect(readdirSync(dir).toSorted()).toEqual(["log", "log.1"]);
  const kept = (read("log.1") + read("log")).trimEnd().split("\n");
  expect(kept.at(-1)).toBe("line 999");
  const first = Number(kept[0]?.split(" ")[1]);
  expect(kept).toEqual(Array.from({ length: 1000 - first }, (_, n) => `line ${first + n}`));
  for (const name of ["log", "log.1"]) expect(statSync(join(dir, name)).size).toBeLessThanOrEqual(1000);
  expect(read("log.1").length).toBeGreaterThan(900);
  expect(statSync(join(dir, "log")).mode & 0o777).toBe(0o600);
  expect(lines.lost()).toBe(0);
});

test("what was in the file stays, and counts", () => {
  writeFileSync(join(dir, "old"), "before\n");
  const lines = writer("old", 20);
  lines.write("after\n", true);
  expect(read("old")).toBe("before\nafter\n");
  lines.write("one too many\n", true);
  expect([read("old.1"), read("old")]).toEqual(["before\nafter\n", "one too many\n"]);
});

test("a place where no file can be is said at once", () => {
  expect(() => openLogFile(join(dir, "absent", "log"))).toThrow(
    /The log cannot be written to .*absent\/log: ENOENT/,
  );
});

test("a directory that is taken away costs lines, and no more", () => {
  const gone = mkdtempSync(join(dir, "gone-"));
  const sink = openLogFile(join(gone, "log"), 10);
  const lines = createLineWriter({ sink, gap: (lost) => `${lost} lost\n` });
  lines.write("12345678\n", true);
  rmSync(gone, { recursive: true });
  lines.write("more than fits\n", true);
  expect(existsSync(gone)).toBe(false);
  expect(lines.lost()).toBe(1);
});
