import type { ProofState } from "../../runs/proofs.ts";
import type { Check } from "../../protocol/sandboxd.ts";

const HOUR_MS = 60 * 60_000;
/** Proofs that may be missing before it is told. */
const LATE = 2;
const FIX = "See which claim does not hold: cofferdam prove. docs/proof.md says what each is about.";

/** Whether the walls held when they were last tried, and how long ago that was. */
export function proofCheck(state: ProofState, everyH: number, now = Date.now()): Check {
  const { at, passed, failed, override } = state;
  const name = "proof";
  if (at === null)
    return { name, status: "ok", detail: "the walls were not tried yet, or see: cofferdam prove", fix: null };
  const hours = Math.floor((now - at) / HOUR_MS);
  const when = hours < 1 ? "within the hour" : `${hours} hours ago`;
  if (!passed) {
    const what = `${failed.join(", ")} did not hold, ${when}`;
    if (override === null) return { name, status: "fail", detail: `${what}: no run begins`, fix: FIX };
    return {
      name,
      status: "warn",
      detail: `${what}; ${override.by} lets runs begin: ${override.reason}`,
      fix: FIX,
    };
  }
  const detail = `the walls held when they were last tried, ${when}`;
  if (everyH === 0 || hours < LATE * everyH) return { name, status: "ok", detail, fix: null };
  return { name, status: "warn", detail: `${detail}, and that is due every ${everyH}`, fix: FIX };
}

/** For those who look at the appliance and not for faults. */
export function proofNotices({ passed, failed, override }: ProofState): string[] {
  if (passed) return [];
  const what = `The newest proof of the walls failed: ${failed.join(", ")}`;
  if (override === null) return [`${what}. No run begins. See: cofferdam prove`];
  return [`${what}. Runs begin all the same, says ${override.by}: ${override.reason}`];
}
