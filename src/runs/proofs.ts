import { desc, eq, lte } from "drizzle-orm";
import type { Origin } from "../audit/event.ts";
import { unchanged, type Ledger } from "../audit/ledger.ts";
import type { Database } from "../db/open.ts";
import { proofs as table } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import { hasPassed, type ProofReport } from "../protocol/proof.ts";

export interface ProofsParts {
  readonly db: Database;
  readonly ledger: Pick<Ledger, "change">;
}

/** What the newest proof says of new runs. */
export interface ProofState {
  /** Null while there has been none. */
  readonly at: number | null;
  readonly passed: boolean;
  /** Claims that do not hold, by their ids. */
  readonly failed: readonly string[];
  readonly override: { readonly reason: string; readonly by: string } | null;
}

export type Proofs = Awaited<ReturnType<typeof openProofs>>;

const KEPT = 50;
const NONE: ProofState = { at: null, passed: true, failed: [], override: null };
const RETRY_S = 60;

/**
 * The proofs that the walls hold. A failed one closes the admission of new runs until one passes, or until the operator
 * says why they shall begin all the same; that holds for this failure, not for the next.
 */
export async function openProofs({ db, ledger }: ProofsParts) {
  const [newest] = await db.select().from(table).orderBy(desc(table.id)).limit(1);
  const current = { state: newest === undefined ? NONE : stateOf(newest), id: newest?.id ?? 0 };

  return {
    state: (): ProofState => current.state,

    /** Why no run may begin; null when they may. */
    refusal(): AppError | null {
      const { passed, failed, override } = current.state;
      if (passed || override !== null) return null;
      return new AppError(
        "unavailable",
        `No run begins here now: the appliance's proof of its walls failed (${shown(failed)}). The operator sees more with: cofferdam prove`,
        { retryAfterS: RETRY_S },
      );
    },

    async record(report: ProofReport, origin: Origin): Promise<ProofState> {
      const passed = hasPassed(report);
      const id = await ledger.change(async () => {
        const [before] = await db.select({ id: table.id }).from(table).orderBy(desc(table.id)).limit(1);
        const id = (before?.id ?? 0) + 1;
        const row = { id, at: report.began_at, passed, report, override: null };
        const data = {
          quick: report.quick,
          claims: report.claims.length,
          failed: failedOf(report),
          error: report.error,
          duration_ms: report.duration_ms,
        };
        const type = passed ? "proof.passed" : "proof.failed";
        return {
          statements: [db.insert(table).values(row), db.delete(table).where(lte(table.id, id - KEPT))],
          events: [{ chain: "appliance", type, namespace: null, data, origin }],
          result: id,
        };
      });
      current.id = id;
      current.state = { at: report.began_at, passed, failed: failedOf(report), override: null };
      return current.state;
    },

    /** Throws AppError when there is nothing to override. */
    async override(reason: string, origin: Origin): Promise<ProofState> {
      const { state, id } = current;
      if (state.passed) throw new AppError("conflict", "The newest proof did not fail: runs begin.");
      const override = { reason, by: origin.localUser ?? "unknown" };
      await ledger.change(async () => {
        const [newest] = await db.select({ id: table.id }).from(table).orderBy(desc(table.id)).limit(1);
        if (newest?.id !== id) return unchanged(undefined);
        return {
          statements: [db.update(table).set({ override }).where(eq(table.id, id))],
          events: [
            {
              chain: "appliance",
              type: "proof.overridden",
              namespace: null,
              data: { reason, failed: [...state.failed] },
              origin,
            },
          ],
          result: undefined,
        };
      });
      if (current.id === id) current.state = { ...state, override };
      return current.state;
    },

    /** The newest first. */
    async list(limit: number): Promise<(ProofState & { readonly report: unknown })[]> {
      const rows = await db.select().from(table).orderBy(desc(table.id)).limit(limit);
      return rows.map((row) => ({ ...stateOf(row), report: row.report }));
    },
  };
}

function stateOf({ at, passed, report, override }: typeof table.$inferSelect): ProofState {
  // Written by record alone.
  return { at, passed, failed: failedOf(report as ProofReport), override };
}

function failedOf({ claims, error }: ProofReport): string[] {
  const failed = claims.filter(({ passed }) => !passed).map(({ id }) => id);
  return error === null && claims.length > 0 ? failed : ["proof.unfinished", ...failed];
}

const SHOWN = 3;

function shown(failed: readonly string[]): string {
  const more = failed.length - SHOWN;
  return failed.slice(0, SHOWN).join(", ") + (more > 0 ? ` and ${more} more` : "");
}
