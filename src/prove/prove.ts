import type { ClaimResult, ProofReport } from "../protocol/proof.ts";
import { withDeadline } from "./deadline.ts";
import { tryClaim, type Group } from "./claim.ts";

/** What a group is tried on is there in some seconds, also on a busy host, or does not come. */
const GROUP_DEADLINE_MS = 90_000;

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
      const { claims: of, close } = await withDeadline(group.open(), GROUP_DEADLINE_MS);
      try {
        for (const claim of of) {
          const result = await tryClaim(claim);
          claims.push(result);
          onResult(result);
        }
      } finally {
        await withDeadline(close(), GROUP_DEADLINE_MS);
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
