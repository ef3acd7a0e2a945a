import { z } from "zod";
import type { Appliance } from "./appliance.ts";

const HOUR_MS = 60 * 60_000;
/** A timer that fires a little early must not make it every second time. */
const EARLY_MS = 10 * 60_000;

/** What the newest proof said, and when. */
export interface Newest {
  readonly at: number | null;
  readonly passed: boolean;
  readonly overridden: boolean;
}

/** Whether the walls are to be tried now: since a start, after so many hours, and again and again while they fail. */
export function isDue(
  { at, passed, overridden }: Newest,
  { startedAt, everyH, now }: { readonly startedAt: number; readonly everyH: number; readonly now: number },
): boolean {
  if (at === null || at < startedAt) return true;
  if (!passed && !overridden) return true;
  return everyH > 0 && now - at > everyH * HOUR_MS - EARLY_MS;
}

const proofs = z.object({ at: z.iso.datetime().nullable(), passed: z.boolean(), override: z.unknown() });
const status = z.object({ uptime_s: z.number() });

export async function proofIsDue(appliance: Appliance, everyH: number): Promise<boolean> {
  const { at, passed, override } = await appliance.ask(proofs, "/admin/proofs");
  const { uptime_s } = await appliance.ask(status, "/admin/status");
  const now = Date.now();
  const newest = { at: at === null ? null : Date.parse(at), passed, overridden: override !== null };
  return isDue(newest, { startedAt: now - uptime_s * 1000, everyH, now });
}
