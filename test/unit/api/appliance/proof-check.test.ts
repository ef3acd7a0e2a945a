import { expect, test } from "bun:test";
import { proofCheck, proofNotices } from "../../../../src/api/appliance/proof-check.ts";

const HOUR = 60 * 60_000;
const none = { at: null, passed: true, failed: [], override: null };
const held = { ...none, at: 0 };
const failed = { ...held, passed: false, failed: ["host.rules"] };
const overridden = { ...failed, override: { reason: "known", by: "alice" } };

test("doctor tells whether the walls held, and how long ago", () => {
  expect(proofCheck(none, 24, 0).status).toBe("ok");
  expect(proofCheck(held, 24, 30 * HOUR)).toMatchObject({
    status: "ok",
    detail: expect.stringContaining("30 hours"),
  });
  expect(proofCheck(held, 24, 50 * HOUR).status).toBe("warn");
  expect(proofCheck(held, 0, 5000 * HOUR).status).toBe("ok");
  expect(proofCheck(failed, 24, HOUR)).toMatchObject({
    status: "fail",
    detail: expect.stringContaining("host.rules"),
  });
  expect(proofCheck(overridden, 24, HOUR)).toMatchObject({
    status: "warn",
    detail: expect.stringContaining("alice"),
  });
});

test("status has a notice while a proof failed", () => {
  expect(proofNotices(held)).toEqual([]);
  expect(proofNotices(failed)).toEqual([expect.stringContaining("No run begins")]);
  expect(proofNotices(overridden)).toEqual([expect.stringContaining("known")]);
});
