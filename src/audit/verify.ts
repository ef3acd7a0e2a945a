import { setImmediate } from "node:timers/promises";
import { and, asc, eq, gt, lte } from "drizzle-orm";
import { z } from "zod";
import type { Database } from "../db/open.ts";
import { checkpoints, events, heads as headTable, workspaces } from "../db/schema.ts";
import { checkpointText, GENESIS, isHeadMac, linkHash, type Head } from "./chain.ts";
import { canonicalJson, microTimestamp, type Chain, type Json } from "./event.ts";
import type { Signer } from "./signer.ts";

const chainReport = z.object({
  /** "appliance" for what belongs to none. */
  workspace_id: z.string(),
  ok: z.boolean(),
  /** Those that were looked at. */
  events: z.number(),
  first_bad: z.object({ event_id: z.string().nullable(), reason: z.string() }).nullable(),
});
export const auditReport = z.object({ ok: z.boolean(), workspaces: z.array(chainReport) });
export type AuditReport = z.infer<typeof auditReport>;
type ChainReport = z.infer<typeof chainReport>;

export interface VerifyParts {
  readonly db: Pick<Database, "select">;
  readonly headKey: Uint8Array;
  readonly signer: Pick<Signer, "verify">;
  /** Of a running ledger: what it remembers, whatever the database says. */
  readonly remembered?: (chain: Chain) => Head | null;
  /** And of which chains. */
  readonly chains?: () => Iterable<Chain>;
  /** One chain instead of all. */
  readonly only?: Chain | undefined;
}

const PAGE = 500;

type Row = typeof events.$inferSelect;
type Fault = { readonly event_id: string | null; readonly reason: string };

/**
 * Walks the chains from their checkpoint to their head and says where each is broken first. What is appended meanwhile
 * is not looked at.
 */
export async function verifyAudit(parts: VerifyParts): Promise<AuditReport> {
  const { db, only } = parts;
  const known = new Set<Chain>(["appliance"]);
  for (const { id } of await db.select({ id: workspaces.id }).from(workspaces)) known.add(id);
  for (const { chain } of await db.select({ chain: headTable.chain }).from(headTable)) known.add(chain);
  for (const chain of parts.chains?.() ?? []) known.add(chain);
  // What belongs to a workspace that never was. Chain by chain, since there are few of them and many events.
  for (let chain = await chainAfter(db, ""); chain !== null; chain = await chainAfter(db, chain))
    known.add(chain);
  const reports: ChainReport[] = [];
  for (const chain of known) {
    if (only !== undefined && chain !== only) continue;
    const before = await checkpointSeq(db, chain);
    let report = await verifyChain(parts, chain);
    // Retention may have cut the chain's tail during the walk.
    if (!report.ok && (await checkpointSeq(db, chain)) !== before) report = await verifyChain(parts, chain);
    reports.push(report);
  }
  return { ok: reports.every(({ ok }) => ok), workspaces: reports };
}

async function chainAfter(db: VerifyParts["db"], before: string): Promise<Chain | null> {
  const [row] = await db
    .select({ chain: events.chain })
    .from(events)
    .where(gt(events.chain, before as Chain))
    .orderBy(asc(events.chain))
    .limit(1);
  return row?.chain ?? null;
}

async function checkpointSeq(db: VerifyParts["db"], chain: Chain): Promise<number | null> {
  const [row] = await db
    .select({ seq: checkpoints.seq })
    .from(checkpoints)
    .where(eq(checkpoints.chain, chain));
  return row?.seq ?? null;
}

async function verifyChain(parts: VerifyParts, chain: Chain): Promise<ChainReport> {
  const { db } = parts;
  let count = 0;
  const report = (fault: Fault | null): ChainReport => ({
    workspace_id: chain,
    ok: fault === null,
    events: count,
    first_bad: fault,
  });

  const [stored] = await db.select().from(headTable).where(eq(headTable.chain, chain));
  const remembered = parts.remembered?.(chain) ?? null;
  const start = await startOf(parts, chain);
  if (start.fault !== null) return report(start.fault);
  let at: Pick<Head, "seq" | "createdAt" | "hash"> = start.at;
  const last = Math.max(stored?.createdAt ?? 0, remembered?.createdAt ?? 0);
  for (;;) {
    const rows = await db
      .select()
      .from(events)
      .where(and(eq(events.chain, chain), gt(events.createdAt, at.createdAt), lte(events.createdAt, last)))
      .orderBy(asc(events.createdAt))
      .limit(PAGE);
    for (const row of rows) {
      const reason = faultOf(row, at) ?? noteOf(row);
      if (reason !== null) return report({ event_id: row.id, reason });
      at = row;
      count += 1;
    }
    if (rows.length < PAGE) break;
    // Others have their turn.
    await setImmediate();
  }
  return report(await endFault(parts, chain, at, { stored, remembered }));
}

/** What the first event has to follow. */
async function startOf({ db, signer }: VerifyParts, chain: Chain) {
  const [checkpoint] = await db.select().from(checkpoints).where(eq(checkpoints.chain, chain));
  if (checkpoint === undefined) return { at: { seq: 0, createdAt: 0, hash: GENESIS }, fault: null };
  if (signer.verify(checkpointText(checkpoint), checkpoint.signature)) return { at: checkpoint, fault: null };
  return {
    at: checkpoint,
    fault: {
      event_id: null,
      reason: "the checkpoint of what retention removed is not signed by this appliance",
    },
  };
}

/** Why a row can't be the one after another; null when it is. */
export function faultOf(row: Row, before: Pick<Head, "seq" | "createdAt" | "hash">): string | null {
  if (row.seq !== before.seq + 1) {
    return `${row.seq - before.seq - 1} events before it are missing (it is number ${row.seq}, after ${before.seq})`;
  }
  if (linkHash(before.hash, row.body) !== row.hash) {
    return "its hash does not follow from its content and the event before it";
  }
  const told = parsed(row.body);
  const columns: Record<string, Json> = {
    id: row.id,
    seq: row.seq,
    type: row.type,
    namespace: row.namespace,
    created_at: microTimestamp(row.createdAt),
    workspace_id: row.chain === "appliance" ? null : row.chain,
  };
  for (const [name, value] of Object.entries(columns)) {
    if (told?.[name] !== value) return `its ${name} in the database is not the one it was written with`;
  }
  return canonicalJson(told) === row.body ? null : "its content is not in its canonical form";
}

function noteOf({ type, body }: Row): string | null {
  if (type !== "audit.broken") return null;
  const { reason } = z.object({ data: z.object({ reason: z.string() }) }).parse(JSON.parse(body)).data;
  return `the appliance found that the log had been changed from outside: ${reason}`;
}

function parsed(body: string): Record<string, Json> | null {
  try {
    return JSON.parse(body) as Record<string, Json> | null;
  } catch {
    return null;
  }
}

interface Ends {
  readonly stored: typeof headTable.$inferSelect | undefined;
  readonly remembered: Head | null;
}

/** Whether the chain ends where its head says, and the head is one that this appliance made. */
async function endFault(
  { db, headKey }: VerifyParts,
  chain: Chain,
  at: Pick<Head, "seq" | "hash">,
  { stored, remembered }: Ends,
): Promise<Fault | null> {
  if (stored === undefined) {
    return { event_id: null, reason: "its head is missing, though every chain has a first event" };
  }
  const { mac, ...head } = stored;
  if (!isHeadMac(headKey, head, mac)) {
    return {
      event_id: null,
      reason: "the MAC of its head is not this appliance's: the newest events may have been changed",
    };
  }
  const expected = remembered !== null && remembered.seq > head.seq ? remembered : head;
  if (at.seq !== expected.seq || at.hash !== expected.hash) {
    const reason = `it ends at number ${at.seq}, but its head is number ${expected.seq}: the newest events were cut or changed`;
    return { event_id: null, reason };
  }
  // In one statement, since the chain may grow meanwhile.
  const [beyond] = await db
    .select({ id: events.id })
    .from(events)
    .innerJoin(headTable, eq(headTable.chain, events.chain))
    .where(and(eq(events.chain, chain), gt(events.createdAt, headTable.createdAt)))
    .limit(1);
  return beyond === undefined ? null : { event_id: beyond.id, reason: "it lies behind the end of the chain" };
}
