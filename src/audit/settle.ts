import { asc } from "drizzle-orm";
import { z } from "zod";
import type { Database } from "../db/open.ts";
import { intents as table } from "../db/schema.ts";
import { keyId, workspaceId, type NamespaceId } from "../ids.ts";
import type { Log } from "../log.ts";
import { APPLIANCE, type EventData, type EventDraft } from "./event.ts";
import type { Ledger } from "./ledger.ts";

/** What the disk shows of a change that was announced. */
export type Fate = "made" | "not made" | "unknown";

/** Finds out about one kind of change. `data` is what it was announced with; the answer's is what the event says. */
export type Judge = (
  data: EventData,
  namespaceId: NamespaceId,
) => Promise<{ readonly fate: Fate; readonly data: EventData }>;

export interface SettleParts {
  readonly db: Database;
  readonly ledger: Pick<Ledger, "settle" | "drop" | "durable" | "append" | "isOwn">;
  /** By the event's type. */
  readonly judges: Readonly<Record<string, Judge>>;
  readonly log: Log;
}

/** Rows read and judged between two commits. */
const BATCH = 250;

const draftSchema = z.object({
  chain: z.union([workspaceId.schema, z.literal("appliance")]),
  type: z.string(),
  namespace: z.string().nullable(),
  data: z.record(z.string(), z.json()),
  origin: z.object({
    keyId: keyId.schema.nullable(),
    localUser: z.string().nullable(),
    requestId: z.string().nullable(),
    address: z.string().nullable(),
  }),
});

/**
 * Completes what a crash left announced, before anything else may change the disk: what was not made is forgotten, and
 * all else becomes its event, marked as settled, with `outcome` "done", or "unknown" when the disk does not tell.
 */
export async function settleIntents({ db, ledger, judges, log }: SettleParts): Promise<void> {
  const settled = { done: 0, unknown: 0, not_made: 0, forged: false };
  for (;;) {
    const rows = await db.select().from(table).orderBy(asc(table.begunAt), asc(table.id)).limit(BATCH);
    if (rows.length === 0) break;
    const ends: Promise<void>[] = [];
    for (const row of rows) {
      const { id, namespaceId, draft } = row;
      if (!ledger.isOwn(row)) {
        // One event for all of them: somebody else decides how many there are.
        if (!settled.forged) await ledger.append([forgedEvent()]);
        settled.forged = true;
        await ledger.drop(id);
        continue;
      }
      const announced: EventDraft = draftSchema.parse(JSON.parse(draft));
      const judge = judges[announced.type] ?? cannotTell;
      const { fate, data } = await judge(announced.data, namespaceId);
      if (fate === "not made") {
        settled.not_made += 1;
        ends.push(ledger.drop(id));
        continue;
      }
      const outcome = fate === "made" ? "done" : "unknown";
      settled[outcome] += 1;
      ends.push(ledger.settle({ ...announced, id, settled: true, data: { ...data, outcome } }));
    }
    await Promise.all(ends);
  }
  if (settled.forged)
    log.error("changes were announced in the database that this appliance did not announce");
  if (settled.done + settled.unknown + settled.not_made === 0) return;
  await ledger.durable();
  log.warn("changes that an earlier run left halfway were settled", settled);
}

const cannotTell: Judge = async (data) => ({ fate: "unknown", data });

function forgedEvent(): EventDraft {
  const data = { reason: "a change was announced in the database that this appliance did not announce" };
  return { chain: "appliance", type: "audit.broken", namespace: null, data, origin: APPLIANCE };
}
