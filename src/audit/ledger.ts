import { setImmediate } from "node:timers/promises";
import type { Database } from "../db/open.ts";
import { OutcomeUnknown } from "../db/server/outcome.ts";
import type { PlainStatement } from "../db/transact.ts";
import { AppError, foreseen } from "../errors.ts";
import { eventId, type EventId, type NamespaceId } from "../ids.ts";
import type { Log } from "../log.ts";
import type { Secrets } from "../secrets.ts";
import { intentMac, isIntentMac, type AnnouncedRow, type Head } from "./chain.ts";
import {
  APPLIANCE,
  canonicalJson,
  type Chain,
  type EventData,
  type EventDraft,
  type StoredEvent,
} from "./event.ts";
import { loadHeads, nothingYet } from "./heads.ts";
import { auditKeys } from "./keys.ts";
import { transactionOf, type Statement } from "./transaction.ts";

/** A change with what the audit log says of it; or a part of one. */
export interface Change {
  readonly statements: readonly Statement[];
  /** None when nothing changes. */
  readonly events: readonly EventDraft[];
}

/** What a change comes to, decided over the committed state. */
export interface Planned<T> extends Change {
  readonly result: T;
}

/** A plan that finds nothing to do. */
export function unchanged<T>(result: T): Planned<T> {
  return { statements: [], events: [], result };
}

export type IntentDraft = Omit<EventDraft, "id" | "settled"> & { readonly namespaceId: NamespaceId };

/** A change on disk that has been announced. It ends by one of the two; a crash before is settled at the next start. */
export interface Intent {
  readonly id: EventId;
  readonly onDisk: Promise<void>;
  /**
   * The change happened. When this resolves the event survives the death of this process; a power cut may bring the
   * intent back instead, which is on the disk already. When the database is away it throws, and the event follows once
   * that is back.
   */
  complete(data: EventData): Promise<void>;
  /** It did not happen, and there is no event. */
  abandon(): Promise<void>;
}

export type Ledger = Awaited<ReturnType<typeof openLedger>>;

export interface LedgerParts {
  readonly db: Database;
  readonly secrets: Pick<Secrets, "derive">;
  readonly log: Log;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
}

/** Members of one commit at most. */
const GROUP = 256;
/** How long an event that nobody waits for may stay unflushed, unless another flush takes it along. */
const FLUSH_AFTER_MS = 5;
/** Between two tries to write what a database that was away did not take. */
const RETRY_MS = 250;

const PUT_INTENT = "INSERT INTO intents (id, begun_at, namespace_id, draft, mac) VALUES (?, ?, ?, ?, ?)";
const DROP_INTENT = "DELETE FROM intents WHERE id = ?";

interface Outcome<T> {
  readonly result: T;
  readonly stored: StoredEvent[];
  /** Resolves when it is on the disk too. Members of one commit share one flush. */
  readonly flush: () => Promise<void>;
}

/** What becomes of a member that is not committed because the database is away, beyond that its caller hears so. */
type Afterwards =
  | "nothing"
  /** It is of something that has happened: it is committed when the database is back. */
  | "owed"
  /** Should it turn out to have been committed all the same, this takes it back. */
  | PlainStatement;

/** Waits its turn to be committed. A plan is made when that has come, and commits alone. */
interface Waiting {
  readonly plan: (() => Promise<Planned<unknown>>) | null;
  readonly ready: Planned<unknown>;
  readonly afterwards: Afterwards;
  readonly done: (outcome: Outcome<unknown>) => void;
  readonly failed: (error: unknown) => void;
}

/**
 * The one writer of the audit log, and of every change that it tells of: both are one transaction. Members that wait
 * together share a commit, and those that wait for the disk share a flush of it.
 */
export async function openLedger({ db, secrets, log, now = Date.now }: LedgerParts) {
  const { headKey: key, intentKey } = auditKeys(secrets);
  const { heads, breaks, unbegun } = await loadHeads(db, key);
  const listeners = new Set<(events: readonly StoredEvent[]) => void>();
  const queue: Waiting[] = [];
  const stats = { events: 0, commits: 0 };
  let draining: Promise<void> | null = null;
  /** Committed, and not yet known to be on the disk. */
  let unpublished: StoredEvent[] = [];
  let flushTimer: Timer | null = null;
  /** Members whose callers have been told that they failed. */
  const owed: Waiting[] = [];
  /** A transaction that was made or not: nothing else is committed before that is known. */
  let doubt: { readonly members: readonly Waiting[]; readonly made: () => void } | null = null;
  let retryTimer: Timer | null = null;

  function enqueue<T>(
    ready: Planned<T>,
    {
      plan = null,
      afterwards = "nothing",
    }: { plan?: (() => Promise<Planned<T>>) | null; afterwards?: Afterwards } = {},
  ): Promise<Outcome<T>> {
    const { promise, resolve, reject } = Promise.withResolvers<Outcome<unknown>>();
    queue.push({ plan, ready, afterwards, done: resolve, failed: reject });
    draining ??= drain();
    return promise as Promise<Outcome<T>>;
  }

  async function drain(): Promise<void> {
    // What else arrives in this turn of the event loop goes along.
    await setImmediate();
    await takeUp();
    for (let first = queue[0]; first !== undefined; first = queue[0]) {
      if (first.plan === null) {
        // Nobody is kept waiting by this, since none of them is on the disk before the flush after it. What comes
        // meanwhile goes along: the more there is to do, the larger are the groups.
        await db.syncing();
        const planned = queue.slice(0, GROUP).findIndex(({ plan }) => plan !== null);
        await commitTogether(queue.splice(0, planned === -1 ? GROUP : planned));
      } else {
        queue.shift();
        await commitPlan(first, first.plan);
      }
    }
    draining = null;
  }

  async function commitPlan(waiting: Waiting, plan: NonNullable<Waiting["plan"]>): Promise<void> {
    try {
      if (doubt !== null) await clarify();
      const ready = await plan();
      const [stored = []] = await commit([{ ...waiting, ready }]);
      waiting.done({ result: ready.result, stored, flush: sharedFlush() });
    } catch (error) {
      waiting.failed(error);
      if (doubt !== null) retry();
    }
  }

  async function commitTogether(group: readonly Waiting[]): Promise<void> {
    try {
      if (doubt !== null) await clarify();
      const stored = await commit(group);
      const flush = sharedFlush();
      for (const [index, { ready, done }] of group.entries()) {
        done({ result: ready.result, stored: stored[index] ?? [], flush });
      }
    } catch (error) {
      if (foreseen(error)?.code === "unavailable") putOff(group, error);
      else if (group.length === 1) group[0]?.failed(error);
      // One of them is at fault; the others must not go down with it.
      else for (const one of group) await commitTogether([one]);
    }
  }

  /** The database is away, and so nobody is kept waiting. */
  function putOff(group: readonly Waiting[], error: unknown): void {
    for (const { failed } of group) failed(error);
    // What is in doubt is not to be committed twice.
    if (doubt?.members !== group) owed.push(...group.filter(({ afterwards }) => afterwards === "owed"));
    retry();
  }

  function retry(): void {
    retryTimer ??= setTimeout(() => {
      retryTimer = null;
      draining ??= drain();
    }, RETRY_MS);
  }

  /** What was put off, before anything else; while the database is away that fails at once. */
  async function takeUp(): Promise<void> {
    try {
      if (doubt !== null) await clarify();
    } catch {
      return retry();
    }
    while (owed.length > 0) {
      const group = owed.splice(0, GROUP);
      await commitTogether(group);
      if (retryTimer !== null) return;
    }
  }

  async function clarify(): Promise<void> {
    const made = await db.outcome();
    if (doubt === null) return;
    const { members } = doubt;
    if (made) doubt.made();
    doubt = null;
    for (const member of members) {
      const { afterwards } = member;
      if (!made && afterwards === "owed") owed.push(member);
      if (!made || typeof afterwards === "string") continue;
      const ready = { ...unchanged(undefined), statements: [afterwards] };
      owed.push({ ...member, ready, afterwards: "owed" });
    }
    if (owed.length > 0) retry();
  }

  /** Of what has just been committed, begun by the first who asks for it. */
  function sharedFlush(): () => Promise<void> {
    let flushed: Promise<void> | null = null;
    return () => (flushed ??= durable());
  }

  /** One transaction. The heads move only when it has been committed. */
  async function commit(members: readonly Waiting[]): Promise<readonly StoredEvent[][]> {
    const { statements, stored, moved } = transactionOf(
      members.map(({ ready }) => ready),
      { key, now, headOf: (chain) => heads.get(chain) ?? nothingYet(chain) },
    );
    if (statements.length === 0) return stored;
    const made = () => committed(moved, stored.flat());
    try {
      const pending = db.transact(statements);
      // A file's is made by now.
      if (pending !== undefined) await pending;
    } catch (error) {
      if (error instanceof OutcomeUnknown) doubt = { members, made };
      throw error;
    }
    made();
    return stored;
  }

  function committed(moved: ReadonlyMap<Chain, Head>, fresh: readonly StoredEvent[]): void {
    for (const [chain, head] of moved) heads.set(chain, head);
    stats.commits += 1;
    stats.events += fresh.length;
    unpublished.push(...fresh);
    if (unpublished.length > 0) flushTimer ??= setTimeout(() => void durable(), FLUSH_AFTER_MS);
  }

  /**
   * Resolves when all that was committed before this call is on the disk. It throws only when the disk failed: what is
   * on it is unknown then, and the process had better end.
   */
  async function durable(): Promise<void> {
    const upTo = unpublished.length === 0 ? null : unpublished.at(-1);
    if (flushTimer !== null) clearTimeout(flushTimer);
    flushTimer = null;
    await db.sync();
    if (upTo !== null) publish(upTo);
  }

  /** Up to and with `last`, unless a later flush was faster. */
  function publish(last: StoredEvent | undefined): void {
    const at = last === undefined ? -1 : unpublished.indexOf(last);
    if (at === -1) return;
    const ready = unpublished.slice(0, at + 1);
    unpublished = unpublished.slice(at + 1);
    for (const listener of listeners) {
      try {
        listener(ready);
      } catch (error) {
        log.error("a reader of the audit log failed", { cause: error });
      }
    }
  }

  const ledger = {
    /** Durable when it resolves. */
    async append(events: readonly EventDraft[]): Promise<StoredEvent[]> {
      const { stored, flush } = await enqueue({ statements: [], events, result: undefined });
      await flush();
      return stored;
    },

    /**
     * Plans are made one at a time, each over the committed state, and what it comes to is one transaction; so nothing
     * changes between a plan's look and its statements. Durable when it resolves.
     */
    async change<T>(plan: () => Promise<Planned<T>>): Promise<T> {
      const { result, flush } = await enqueue(unchanged(undefined as T), { plan });
      await flush();
      return result;
    },

    /** Announces a change on disk; begin it when this resolves, since only then a crash can't hide it. */
    async begin(draft: IntentDraft): Promise<Intent> {
      const intent = await ledger.announce(draft);
      await intent.onDisk;
      return intent;
    },

    /** As begin, but when this resolves only the end of this process can't hide it; a power cut can't from `onDisk` on. */
    async announce({ namespaceId, ...draft }: IntentDraft): Promise<Intent> {
      const id = eventId.make();
      const record = canonicalJson({ ...draft, origin: { ...draft.origin } });
      const mac = intentMac(intentKey, { id, namespaceId, draft: record });
      const put = { sql: PUT_INTENT, args: [id, now(), namespaceId, record, mac] };
      const announcement = { ...unchanged(undefined), statements: [put] };
      // Its caller does not begin what could not be announced.
      const { flush } = await enqueue(announcement, { afterwards: { sql: DROP_INTENT, args: [id] } });
      return {
        id,
        onDisk: flush(),
        complete: (data) => ledger.settle({ ...draft, id, data }),
        abandon: () => ledger.drop(id),
      };
    },

    /** Turns the intent of this id into its event. */
    async settle(event: EventDraft & { readonly id: EventId }): Promise<void> {
      const drop = { sql: DROP_INTENT, args: [event.id] };
      const ready = { statements: [drop], events: [event], result: undefined };
      await enqueue(ready, { afterwards: "owed" }).catch((error: unknown) => {
        throw foreseen(error)?.code === "unavailable" ? doneAlready(error) : error;
      });
    },

    /** Whether an intent is one that this appliance announced. */
    isOwn: (row: AnnouncedRow & { readonly mac: string }): boolean => isIntentMac(intentKey, row, row.mac),

    async drop(id: string): Promise<void> {
      const statements = [{ sql: DROP_INTENT, args: [id] }];
      await enqueue({ statements, events: [], result: undefined }, { afterwards: "owed" });
    },

    durable,

    /** Called with events that are on the disk, each chain's in order. Returns how to end that. */
    onPublished(listener: (events: readonly StoredEvent[]) => void): () => void {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },

    /** What the start found changed from outside. */
    breaks,
    head: (chain: Chain): Head | null => heads.get(chain) ?? null,
    chains: (): Iterable<Chain> => heads.keys(),
    /** `events` and `commits` since the start, `total` of all time; `newestAt` in microseconds, 0 before the first. */
    stats: () => ({
      ...stats,
      chains: heads.size,
      waiting: queue.length + owed.length,
      total: heads.values().reduce((sum, { seq }) => sum + seq, 0),
      applianceSeq: heads.get("appliance")?.seq ?? 0,
      newestAt: heads.values().reduce((newest, { createdAt }) => Math.max(newest, createdAt), 0),
    }),

    /** Waits for what is under way. Nothing may be begun after. */
    async close(): Promise<void> {
      await draining;
      // What is owed still stands announced, for the next start.
      if (retryTimer !== null) clearTimeout(retryTimer);
      await durable();
      listeners.clear();
    },
  };

  // All of them or none, so that a start that finds only some missing knows that they are gone.
  await ledger.append(
    unbegun.map((chain) => ({ chain, type: "audit.begun", namespace: null, data: {}, origin: APPLIANCE })),
  );
  // Said in the chain itself: what is appended next would otherwise make a new head over what somebody changed.
  for (const { chain, reason } of breaks) {
    log.error("the audit log was changed from outside", { chain, reason });
    const event = { chain, type: "audit.broken", namespace: null, data: { reason }, origin: APPLIANCE };
    await ledger.append([event]);
  }
  return ledger;
}

/** For a caller who would do it again. */
function doneAlready(cause: unknown): AppError {
  return new AppError(
    "unavailable",
    "This was done, but the database went away before the audit log had it; that follows. Look before you do it again.",
    { retryAfterS: 5, cause },
  );
}
