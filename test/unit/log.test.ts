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

test("keys and signing secrets are cut to what lists show of them", () => {
  const { lines, log } = capture();
  const random = "Ab3dEfGhIjKlMnOpQrStUvWxYz0123456789AbCdEfGhIjKl";
  log.error("a client's mistake", {
    namespace: `trove-sk-${random}`,
    cause: new Error(`no such file: trove-sk-admin-${random}`),
    nested: [`whsec_${random}+/=`, `sk-ant-${random}`],
  });
  expect(lines[0]).not.toContain(random.slice(5, 13));
  const { namespace, cause, nested } = JSON.parse(lines[0] ?? "");
  expect(namespace).toBe("trove-sk-Ab3dE[redacted]");
  expect(cause.message).toBe("no such file: trove-sk-admin-Ab3dE[redacted]");
  expect(nested).toEqual(["whsec_[redacted]", "sk-ant-[redacted]"]);
  log.info("key made", { prefix: "trove-sk-admin-Ab3dE" });
  expect(JSON.parse(lines[1] ?? "").prefix).toBe("trove-sk-admin-Ab3dE");
});

test("fields of every kind print, and without any the line is whole", () => {
  const { lines, log } = capture();
  log.info("bare");
  log.info("mixed", { text: 'q"\n', number: 1.5, none: null, absent: undefined, list: [1, "a"] });
  expect(Object.keys(JSON.parse(lines[0] ?? ""))).toEqual(["time", "level", "role", "message"]);
  expect(JSON.parse(lines[1] ?? "")).toMatchObject({ text: 'q"\n', number: 1.5, none: null, list: [1, "a"] });
});
