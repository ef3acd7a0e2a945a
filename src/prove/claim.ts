import type { ClaimResult } from "../protocol/proof.ts";
import { withDeadline } from "./deadline.ts";

/** What came of one try. */
export interface Seen {
  /** Of the attack: whether the wall held. Of the control: whether it did what the attack must not. */
  readonly ok: boolean;
  /** For a person. */
  readonly what: string;
}

export interface Trial {
  readonly attack: Seen;
  readonly control: Seen;
  /** How long it took, when that was before. */
  readonly ms?: number;
}

/**
 * One wall. The control is the same try where nothing is in the way (or a look at the wall itself where no such place is):
 * if that does not work, the attack's failure shows nothing, and the claim has failed too.
 */
export interface Claim {
  /** group.claim; scripts and alerts go by it. */
  readonly id: string;
  /** What must hold, in a sentence. */
  readonly claim: string;
  /** What is tried against it, and what shows that the try could work. */
  readonly attack: string;
  readonly control: string;
  try(): Promise<Trial>;
}

/** Claims that share what they are tried on. */
export interface Group {
  readonly name: string;
  /** Left out of a quick proof. */
  readonly slow: boolean;
  /** Makes what they are tried on. `close` takes it away again, also when making it failed halfway. */
  open(): Promise<{ readonly claims: readonly Claim[]; readonly close: () => Promise<void> }>;
}

const CLAIM_DEADLINE_MS = 60_000;

/** Tries one claim; whatever goes wrong with that is a failure of it. */
export async function tryClaim(claim: Claim): Promise<ClaimResult> {
  const started = performance.now();
  const trial: Trial = await withDeadline(claim.try(), CLAIM_DEADLINE_MS).catch((error: unknown) => {
    const what = `could not be tried: ${error instanceof Error ? error.message : String(error)}`;
    return { attack: { ok: false, what }, control: { ok: false, what } };
  });
  return {
    id: claim.id,
    claim: claim.claim,
    attack: `${claim.attack}: ${trial.attack.what}`,
    attack_held: trial.attack.ok,
    control: `${claim.control}: ${trial.control.what}`,
    control_worked: trial.control.ok,
    passed: trial.attack.ok && trial.control.ok,
    duration_ms: Math.round(trial.ms ?? performance.now() - started),
  };
}
