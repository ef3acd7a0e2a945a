import { expect, test } from "bun:test";
import { backupCheck } from "../../../../src/api/appliance/backup-check.ts";
import { configSchema } from "../../../../src/config/schema.ts";
import { startLedger } from "../../../fixtures/ledger.ts";

const HOUR_MS = 60 * 60_000;

test("doctor tells of backups that are asked for and not made, and of nothing when none are", async () => {
  const clock = { now: Date.UTC(2026, 0, 1) };
  const audit = await startLedger({ now: () => clock.now });
  const { db, ledger } = audit;
  const settings = configSchema.parse({ backup: { to: "/mnt/backups", every_h: 6 } }).backup;
  const check = async () => backupCheck(db, settings, clock.now);
  expect(await backupCheck(db, configSchema.parse({}).backup, clock.now)).toEqual([]);
  expect(await check()).toMatchObject([{ status: "warn", detail: expect.stringContaining("knows of none") }]);
  const origin = { keyId: null, localUser: "root", requestId: null, address: null };
  await ledger.change(async () => ({
    statements: [],
    events: [{ chain: "appliance", type: "backup.created", namespace: null, data: {}, origin }],
    result: null,
  }));
  clock.now += 11 * HOUR_MS + 60_000;
  expect(await check()).toMatchObject([{ status: "ok", detail: "the last one was made 11 hours ago" }]);
  clock.now += HOUR_MS;
  expect(await check()).toMatchObject([{ status: "warn", detail: expect.stringContaining("due every 6") }]);
  await audit.close();
});
