import { expect, test } from "bun:test";
import { createLog } from "../../src/log.ts";

function capture() {
  const lines: string[] = [];
  return { lines, log: createLog("api", (line) => lines.push(line)) };
}

test("a line is one JSON object with time, level, role, message and the fields", () => {
  const { lines, log } = capture();
  log.warn("disk is nearly full", { free: 12n, path: "a\nb" });
  expect(lines).toHaveLength(1);
  expect(lines[0]).toEndWith("}\n");
  expect(lines[0]?.trimEnd()).not.toContain("\n");
  const { time, ...rest } = JSON.parse(lines[0] ?? "");
  expect(time).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
  expect(rest).toEqual({
    level: "warn",
    role: "api",
    message: "disk is nearly full",
    free: "12",
    path: "a\nb",
  });
});

test("an error is logged with its message, stack and cause", () => {
  const { lines, log } = capture();
  log.error("call failed", { error: new Error("outer", { cause: new Error("inner") }) });
  const { error } = JSON.parse(lines[0] ?? "");
  expect(error.message).toBe("outer");
  expect(error.stack).toContain("log.test.ts");
  expect(error.cause.message).toBe("inner");
});

test("fields that have no JSON don't throw", () => {
  const { lines, log } = capture();
  const cycle: Record<string, unknown> = {};
  cycle["self"] = cycle;
  log.info("odd", { cycle });
  expect(JSON.parse(lines[0] ?? "")).toMatchObject({ message: "odd", fields: "unprintable" });
});
