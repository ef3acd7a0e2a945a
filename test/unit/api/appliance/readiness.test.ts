import { expect, test } from "bun:test";
import { createReadiness, type ReadyCheck } from "../../../../src/api/appliance/readiness.ts";
import { AppError } from "../../../../src/errors.ts";

function readiness(checks: readonly ReadyCheck[], options: { maxAgeMs?: number } = {}) {
  const logged: unknown[] = [];
  const note = (message: string, fields?: unknown) => void logged.push([message, fields]);
  const log = { info: note, warn: note, error: note };
  return { logged, ready: createReadiness({ checks, log, maxAgeMs: 0, patienceMs: 50, ...options }) };
}

const well = { name: "well", look: async () => "fine" };

test("nothing amiss is no reason", async () => {
  expect(await readiness([well, well]).ready()).toEqual([]);
});

test("each fault is named and told in its own words, the others are looked at all the same", async () => {
  const errno = Object.assign(new Error("typo in the url"), { code: "ENOENT" });
  const { ready } = readiness([
    { name: "a", look: () => Promise.reject(new AppError("no_space", "1 MiB is free")) },
    well,
    { name: "b", look: () => Promise.reject(errno) },
    { name: "c", look: () => Promise.reject(new Error("boom")) },
  ]);
  expect(await ready()).toEqual([
    { name: "a", detail: "1 MiB is free" },
    { name: "b", detail: "ENOENT" },
    { name: "c", detail: "boom" },
  ]);
});

test("what never answers is a fault, and holds nobody up", async () => {
  const never = Promise.withResolvers<void>();
  const { ready } = readiness([{ name: "slow", look: () => never.promise }, well]);
  expect(await ready()).toEqual([{ name: "slow", detail: "it did not answer within 0.05 s" }]);
});

test("however many ask, things are looked at once in a while", async () => {
  let looks = 0;
  const count = { name: "counted", look: async () => void (looks += 1) };
  const { ready } = readiness([count], { maxAgeMs: 60_000 });
  await Promise.all(Array.from({ length: 100 }, () => ready()));
  await ready();
  expect(looks).toBe(1);
  const { ready: fresh } = readiness([count]);
  await fresh();
  await fresh();
  expect(looks).toBe(3);
});

test("the log tells when it changes, not each time", async () => {
  let fault: Error | null = null;
  const look = async () => {
    if (fault !== null) throw fault;
  };
  const { ready, logged } = readiness([{ name: "disk", look }]);
  await ready();
  fault = new Error("full");
  await ready();
  await ready();
  fault = null;
  await ready();
  await ready();
  expect(logged).toEqual([
    ["is not ready", { reasons: [{ name: "disk", detail: "full" }] }],
    ["is ready again", undefined],
  ]);
});
