import type { ClaimResult, ProofReport } from "../protocol/proof.ts";
import { tryClaim, type Group } from "./claim.ts";

export interface ProveOptions {
  readonly groups: readonly Group[];
  readonly quick: boolean;
  /** Before what a group is tried on is made. */
  readonly onGroup: (name: string) => void;
  /** As each is done. */
  readonly onResult: (result: ClaimResult) => void;
}

/** Tries every claim of every group, one after the other, and says what came of it; never rejects. */
export async function prove({ groups, quick, onGroup, onResult }: ProveOptions): Promise<ProofReport> {
  const beganAt = Date.now();
  const claims: ClaimResult[] = [];
  const errors: string[] = [];
  for (const group of groups) {
    if (quick && group.slow) continue;
    onGroup(group.name);
    try {
      const { claims: of, close } = await group.open();
      try {
        for (const claim of of) {
          const result = await tryClaim(claim);
          claims.push(result);
          onResult(result);
        }
      } finally {
        await close();
      }
    } catch (error) {
      errors.push(`${group.name}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  return {
    quick,
    began_at: beganAt,
    duration_ms: Date.now() - beganAt,
    claims,
    error: errors.length === 0 ? null : errors.join("; "),
  };
}
