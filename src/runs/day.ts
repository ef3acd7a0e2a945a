import { and, eq, gte, isNull, or } from "drizzle-orm";
import type { Database } from "../db/open.ts";
import { runs as table } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import type { WorkspaceId } from "../ids.ts";
import { runGrants, type RunGrants } from "./grants.ts";

const DAY_MS = 24 * 60 * 60_000;
const NANO = 1_000_000_000;

/**
 * Holds a workspace to its dollars a day: a run's grants with what it may spend narrowed to what the day has left. A run
 * that is not over counts with all that it may still spend, so that many of them at once can't be over together. To be
 * asked where the run's row is made, over the committed state. Throws AppError busy when nothing is left.
 */
export async function narrowToDay(
  { db, now }: { readonly db: Database; readonly now: number },
  workspaceId: WorkspaceId,
  usdPerDay: number | null,
  grants: RunGrants,
): Promise<RunGrants> {
  if (usdPerDay === null || grants.llm.length === 0) return grants;
  const midnight = now - (now % DAY_MS);
  const rows = await db
    .select({ spent: table.usdNano, finishedAt: table.finishedAt, grants: table.grants })
    .from(table)
    .where(
      and(eq(table.workspaceId, workspaceId), or(isNull(table.finishedAt), gte(table.finishedAt, midnight))),
    );
  const taken = rows.reduce((sum, { spent, finishedAt, grants }) => {
    return sum + (finishedAt === null ? Math.max(spent, mostOf(runGrants.parse(grants))) : spent);
  }, 0);
  const left = Math.round(usdPerDay * NANO) - taken;
  if (left <= 0) {
    throw new AppError(
      "busy",
      `The workspace's runs have spent, or may still spend, its ${usdPerDay} dollars of today (UTC); the policy's "usd_per_day" says so.`,
      { retryAfterS: Math.ceil((midnight + DAY_MS - now) / 1000) },
    );
  }
  // Each of its grants gets a share, since each is held to its own.
  const share = Math.floor(left / grants.llm.length);
  return {
    ...grants,
    llm: grants.llm.map((one) => ({
      ...one,
      max_usd_nano: one.max_usd_nano === null ? share : Math.min(one.max_usd_nano, share),
    })),
  };
}

/** What a run may spend; one without a bound was let in before there was a ceiling. */
function mostOf({ llm }: RunGrants): number {
  return llm.reduce((sum, { max_usd_nano }) => sum + (max_usd_nano ?? 0), 0);
}
