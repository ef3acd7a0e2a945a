import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { isKnownPattern, typesOf } from "../../../src/audit/types.ts";

const SOURCE = resolve(import.meta.dir, "../../../src");

test("all types that the source writes into the log are known", () => {
  const written = readdirSync(SOURCE, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts") && name !== "audit/types.ts")
    .flatMap((name) => [
      ...readFileSync(join(SOURCE, name), "utf8").matchAll(
        /(?:type[:,]|eventOf\(|Event\(|=>)\s*(?:\w+ \? )?"([a-z_]+\.[a-z_]+)"/g,
      ),
    ])
    .map(([, type = ""]) => type);
  expect(written).toContain("file.written");
  expect(written).toContain("webhook.test");
  expect(written.filter((type) => !isKnownPattern(type))).toEqual([]);
});

test("a slip is none of them", () => {
  for (const known of ["file.written", "file.*", "run.*", "*"])
    expect([known, isKnownPattern(known)]).toEqual([known, true]);
  for (const slip of ["file.writen", "fil.*", "*.*", ".*", "file", "file.written.*", ""])
    expect([slip, isKnownPattern(slip)]).toEqual([slip, false]);
});

test("what a pattern stands for", () => {
  expect(typesOf("file.written")).toEqual(["file.written"]);
  expect(typesOf("file.*")).toEqual(["file.deleted", "file.written"]);
  expect(typesOf("*")).toContain("run.finished");
  expect(typesOf("file.writen")).toEqual([]);
});
