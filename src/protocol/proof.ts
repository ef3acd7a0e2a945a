import { z } from "zod";

/** What `cofferdam prove` says of one claim, and tells api by its admin socket. */
export const claimResult = z.strictObject({
  /** Of the form group.claim: "network.neighbour-gateway". */
  id: z.string().regex(/^[a-z0-9-]+\.[a-z0-9-]+$/),
  /** What must hold, in a sentence. */
  claim: z.string(),
  /** What was tried against it, and what came of that. */
  attack: z.string(),
  attack_held: z.boolean(),
  /** What shows that the attack would have been seen to succeed, and what came of that. */
  control: z.string(),
  control_worked: z.boolean(),
  /** Both of them. */
  passed: z.boolean(),
  duration_ms: z.int().min(0),
});
export type ClaimResult = z.infer<typeof claimResult>;

export const proofReport = z.strictObject({
  quick: z.boolean(),
  /** Milliseconds since 1970. */
  began_at: z.int(),
  duration_ms: z.int().min(0),
  claims: z.array(claimResult).max(1000),
  /** Why it could not be made to its end; such a proof has failed. */
  error: z.string().nullable(),
});
export type ProofReport = z.infer<typeof proofReport>;

/** As many of a proof's own runs live at once: each proves something, and they come on top of what there may be else. */
export const PROOF_RUNS = 4;

/** Says on the admin socket that a run is one of a proof's, which begin also while others may not. */
export const PROOF_HEADER = "x-cofferdam-proof";

/** One without a claim proves nothing. */
export function hasPassed({ claims, error }: ProofReport): boolean {
  return error === null && claims.length > 0 && claims.every(({ passed }) => passed);
}
