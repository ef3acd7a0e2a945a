import { expect, test } from "bun:test";
import { APPLIANCE } from "../../../src/audit/event.ts";
import { events } from "../../../src/db/schema.ts";
import type { AppError } from "../../../src/errors.ts";
import type { ProofReport } from "../../../src/protocol/proof.ts";
import { openProofs } from "../../../src/runs/proofs.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { startLedger } from "../../fixtures/ledger.ts";

const claim = (id: string, over: object = {}) => ({
  id,
  claim: "c",
  attack: "a",
  attack_held: true,
  control: "k",
  control_worked: true,
  passed: true,
  duration_ms: 1,
  ...over,
});
const report = (over: Partial<ProofReport> = {}): ProofReport => ({
  quick: true,
  began_at: 1000,
  duration_ms: 5,
  claims: [claim("exec.one")],
  error: null,
  ...over,
});
const failing = report({
  claims: [claim("exec.one"), claim("run.two", { attack_held: false, passed: false })],
});
const admission = async (proofs: { refusal(): AppError | null }) => proofs.refusal()?.message ?? "open";
const toldBy = async ({ db }: Awaited<ReturnType<typeof startLedger>>) =>
  (await db.select().from(events)).filter(({ type }) => type.startsWith("proof."));

test("a failed proof closes admission, also after a restart, until one passes", async () => {
  const at = await startLedger();
  const proofs = await openProofs(at);
  expect(await admission(proofs)).toBe("open");
  await proofs.record(failing, APPLIANCE);
  expect(await admission(proofs)).toContain("failed (run.two)");
  expect(await admission(await openProofs(at))).toContain("run.two");
  await proofs.record(report(), APPLIANCE);
  expect(await admission(proofs)).toBe("open");
  expect(await admission(await openProofs(at))).toBe("open");
  const told = (await toldBy(at)).map(({ type, chain }) => `${chain} ${type}`);
  expect(told).toEqual(["appliance proof.failed", "appliance proof.passed"]);
  await at.close();
});

test("one that proves nothing, or did not come to its end, has failed", async () => {
  const at = await startLedger();
  const proofs = await openProofs(at);
  for (const nothing of [report({ claims: [] }), report({ error: "the api went away" })]) {
    expect((await proofs.record(nothing, APPLIANCE)).passed).toBe(false);
    expect(await admission(proofs)).toContain("proof.unfinished");
  }
  await at.close();
});

test("the operator overrides one failure with a reason; the next closes again", async () => {
  const at = await startLedger();
  const proofs = await openProofs(at);
  expect(await failureOf(proofs.override("why not", APPLIANCE))).toContain("did not fail");
  await proofs.record(failing, APPLIANCE);
  const state = await proofs.override("the decoy's port was taken", { ...APPLIANCE, localUser: "root" });
  expect(state.override).toEqual({ reason: "the decoy's port was taken", by: "root" });
  expect(await admission(proofs)).toBe("open");
  expect(await admission(await openProofs(at))).toBe("open");
  await proofs.record(failing, APPLIANCE);
  expect(await admission(proofs)).toContain("run.two");
  const told = await toldBy(at);
  expect(told.map(({ type }) => type)).toEqual(["proof.failed", "proof.overridden", "proof.failed"]);
  expect(told[1]?.body).toContain("the decoy's port was taken");
  await at.close();
});

test("of many the newest are kept", async () => {
  const at = await startLedger();
  const proofs = await openProofs(at);
  for (let i = 0; i < 53; i++) await proofs.record(report({ began_at: i }), APPLIANCE);
  const kept = await proofs.list(1000);
  expect(kept).toHaveLength(50);
  expect(kept[0]?.at).toBe(52);
  await at.close();
});
