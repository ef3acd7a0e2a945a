import type { KeyId, RequestId, WorkspaceId } from "../ids.ts";
import type { Log } from "../log.ts";
import { APPLIANCE, type EventDraft } from "./event.ts";
import type { Ledger } from "./ledger.ts";

/** A request that was answered with 401, 403 or 429. */
export interface Refusal {
  readonly status: 401 | 403 | 429;
  /** Why, in a word or two of ours. */
  readonly reason: string;
  /** The client's; null on the admin socket. */
  readonly address: string | null;
  /** What one client can be told from others by: an address, or a network of which it has all. */
  readonly source: string | null;
  /** Known, but not allowed. */
  readonly keyId: KeyId | null;
  readonly workspaceId: WorkspaceId | null;
  readonly route: string | null;
  readonly requestId: RequestId;
}

export interface RefusalsParts {
  readonly ledger: Pick<Ledger, "append">;
  readonly log: Log;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
}

const WINDOW_MS = 60_000;
/** Rows a minute: some at once, as a warning; of the rest the busiest sources, and one row for all others of a status. */
const AT_ONCE = 10;
const SUMMED = 10;
/** Sources told apart in a minute. */
const SOURCES = 5000;

/** Refusals of one kind from one source that have no row yet. */
interface Tally {
  readonly refusal: Pick<Refusal, "status" | "reason" | "source" | "keyId" | "workspaceId">;
  count: number;
  sources: number;
  since: number;
}

export type Refusals = ReturnType<typeof createRefusals>;

/**
 * Keeps refused requests in the appliance's chain so that an attack shows and can't fill the disk: whatever comes, a
 * minute has at most 23 rows, and their counts add up to all that was refused.
 */
export function createRefusals({ ledger, log, now = Date.now }: RefusalsParts) {
  const totals = { 401: 0, 403: 0, 429: 0 };
  const sources = new Map<string, Tally>();
  /** Of sources beyond those that are told apart. */
  const others = new Map<Refusal["status"], Tally>();
  let atOnce = 0;
  const writing = new Set<Promise<void>>();

  async function append(events: readonly EventDraft[]): Promise<void> {
    try {
      await ledger.append(events);
    } catch (error) {
      log.error("refused requests were not recorded", { cause: error });
    }
  }

  function write(events: readonly EventDraft[]): void {
    if (events.length === 0) return;
    const written: Promise<void> = append(events).finally(() => writing.delete(written));
    writing.add(written);
  }

  function note(refusal: Refusal): void {
    const { status, reason, source, keyId } = refusal;
    totals[status] += 1;
    const name = `${status} ${reason} ${source} ${keyId}`;
    const known = sources.get(name);
    if (known !== undefined) return count(known);
    if (sources.size >= SOURCES) return count(otherTally(others, status, now()));
    const tally = { refusal, count: 0, sources: 1, since: now() };
    sources.set(name, tally);
    if (atOnce >= AT_ONCE) return count(tally);
    atOnce += 1;
    write([firstOf(refusal, now())]);
  }

  function count(tally: Tally): void {
    if (tally.count === 0) tally.since = now();
    tally.count += 1;
  }

  /** Ends a minute: what has no row yet gets one. */
  function sum(): void {
    const waiting = [...sources.values()].filter((tally) => tally.count > 0);
    waiting.sort((a, b) => b.count - a.count);
    const most = waiting.splice(0, SUMMED);
    for (const { refusal, count, since } of waiting) {
      const tally = otherTally(others, refusal.status, since);
      tally.count += count;
      tally.sources += 1;
      tally.since = Math.min(tally.since, since);
    }
    write([...most, ...others.values()].map((tally) => sumOf(tally, now())));
    sources.clear();
    others.clear();
    atOnce = 0;
  }

  return {
    note,
    sum,
    /** Refused since the start, by status. */
    stats: () => ({ ...totals }),

    /** Sums once a minute, and when it is stopped. A crash loses a minute's counts at most. */
    start(): { stop(): Promise<void> } {
      const timer = setInterval(sum, WINDOW_MS);
      return {
        async stop() {
          clearInterval(timer);
          sum();
          await Promise.all(writing);
        },
      };
    },
  };
}

function otherTally(others: Map<Refusal["status"], Tally>, status: Refusal["status"], since: number): Tally {
  const known = others.get(status);
  if (known !== undefined) return known;
  const refusal = { status, reason: "various", source: null, keyId: null, workspaceId: null };
  const tally = { refusal, count: 0, sources: 0, since };
  others.set(status, tally);
  return tally;
}

function firstOf(refusal: Refusal, at: number): EventDraft {
  const { keyId, requestId, address, route } = refusal;
  const data = { ...dataOf(refusal, { count: 1, sources: 1, since: at, until: at }), route };
  const origin = { keyId, localUser: null, requestId, address };
  return { chain: "appliance", type: "request.refused", namespace: null, data, origin };
}

function sumOf({ refusal, count, sources, since }: Tally, until: number): EventDraft {
  const data = dataOf(refusal, { count, sources, since, until });
  return { chain: "appliance", type: "request.refused", namespace: null, data, origin: APPLIANCE };
}

function dataOf(
  { status, reason, source, keyId, workspaceId }: Tally["refusal"],
  { count, sources, since, until }: { count: number; sources: number; since: number; until: number },
) {
  return {
    status,
    reason,
    address: source,
    key_id: keyId,
    workspace_id: workspaceId,
    count,
    sources,
    since: new Date(since).toISOString(),
    until: new Date(until).toISOString(),
  };
}
