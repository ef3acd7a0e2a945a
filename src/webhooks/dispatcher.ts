import type { Database } from "../db/open.ts";
import type { WebhookId, WorkspaceId } from "../ids.ts";
import type { Log } from "../log.ts";
import { attempt, isGone, type Outcome, type Post, type Sendable } from "./attempt.ts";
import type { Clock } from "./clock.ts";
import { nextDue, record, recordLast, take, takenRows, type Recorded, type Taken } from "./deliveries.ts";
import { createEndpoint, type Endpoint, type Target } from "./endpoint.ts";
import type { DeliveryMeter } from "./meter.ts";
import { fanOut } from "./outbox.ts";
import { createResults } from "./results.ts";
import { nextDelay } from "./schedule.ts";
import { share, type Free } from "./share.ts";
import { EVENT_GONE } from "./sweep.ts";

export interface DispatcherParts {
  readonly db: Database;
  readonly log: Log;
  readonly clock: Clock;
  readonly post: Post;
  /** Ends a webhook for good reason: it takes itself out of here. */
  readonly giveUp: (id: WebhookId, reason: string) => Promise<void>;
  readonly meter?: DeliveryMeter;
  /** In [0, 1). */
  readonly random?: () => number;
}

/** Attempts under way in all. Those to slow endpoints have half of it, so that the others never wait for them. */
const MOST: Free = { all: 512, slow: 256 };
/** The same of one workspace: its endpoints may be quick until they have all there is, and then hang together. */
const MOST_OF_ONE: Free = { all: 128, slow: 64 };
/** Longer than any attempt. */
const LEASE_MS = 60_000;
/** Transactions are so far apart at least: what comes meanwhile shares the next. */
const PACE_MS = 10;
const AFTER_FAILURE_MS = 1000;
/** New deliveries in one transaction, about. */
const FANOUT_ROWS = 2000;
const NEVER = Number.POSITIVE_INFINITY;

export type Dispatcher = ReturnType<typeof createDispatcher>;

/**
 * Makes events into deliveries and sends them. The backlog is in the database: here are only the endpoints, and what is
 * under way. It works in turns, each one transaction: what became of attempts, the new deliveries, and those that are
 * taken next.
 */
export function createDispatcher(parts: DispatcherParts) {
  const { db, log, clock, random = Math.random } = parts;
  const endpoints = new Map<WebhookId, Endpoint>();
  /** Chains with events that are no deliveries yet, and up to where those are on the disk. */
  const behind = new Map<WorkspaceId, number>();
  /** May have something due since the transaction that is under way looked. */
  const poked = new Set<WebhookId>();
  const results = createResults();
  let inFlight = 0;
  let turning = false;
  let stopping = false;
  let turnTimer: Timer | null = null;
  let cancelAlarm: (() => void) | null = null;
  let turnedAt = 0;
  let turns = 0;

  /** Soon, together with what else comes until then. */
  function wake(afterMs = PACE_MS - (performance.now() - turnedAt)): void {
    if (turning || turnTimer !== null) return;
    turnTimer = setTimeout(
      () => {
        turnTimer = null;
        void turn();
      },
      Math.max(0, afterMs),
    );
  }

  /** For what is due later. */
  function setAlarm(): void {
    cancelAlarm?.();
    cancelAlarm = null;
    if (stopping) return;
    const now = clock.now();
    if (choose(now).length > 0) return wake();
    // What is due and has no room is looked at when an attempt ends.
    const times = endpoints.values().map(({ state, pace }) => Math.max(state.dueAt, pace.closedUntil()));
    const next = times.reduce((least, at) => (at > now ? Math.min(least, at) : least), NEVER);
    if (next !== NEVER) cancelAlarm = clock.after(next - now, () => wake());
  }

  async function turn(): Promise<void> {
    turning = true;
    turnedAt = performance.now();
    turns++;
    let failed = false;
    try {
      await transaction();
    } catch (error) {
      failed = true;
      log.error("webhook deliveries wait: the database failed", { cause: error });
    }
    turning = false;
    if (failed) wake(AFTER_FAILURE_MS);
    else if (!results.isEmpty() || (behind.size > 0 && !stopping)) wake();
    else setAlarm();
  }

  async function transaction(): Promise<void> {
    const now = clock.now();
    const chains = stopping ? [] : [...behind];
    const chosen = stopping ? [] : choose(now, new Set(chains.map(([chain]) => chain)));
    if (results.isEmpty() && chains.length + chosen.length === 0) return;
    const taken = results.take();
    poked.clear();
    const touched = new Set([
      ...taken.shown.map(({ webhookId }) => webhookId),
      ...chosen.map(([{ state }]) => state.target.id),
    ]);
    for (const [id, { state }] of endpoints) if (behind.has(state.target.workspaceId)) touched.add(id);
    const statements = [
      record(taken.finished),
      recordLast(taken.shown),
      ...chains.flatMap(([chain, upTo]) => fanOut(chain, { upTo, limit: fanOutLimit(chain), now })),
      ...chosen.map(([{ state }, limit]) => take(state.target, { now, leaseMs: LEASE_MS, limit })),
      nextDue([...touched]),
    ];
    const answers = await db.$client.batch(statements, "write").catch((error: unknown) => {
      taken.undo();
      throw error;
    });
    taken.done();
    for (const [index, [chain, upTo]] of chains.entries()) {
      const reached = answers[2 + 2 * index + 1]?.rows[0]?.["event_at"];
      const isDone = reached === undefined || Number(reached) >= upTo;
      if (isDone && behind.get(chain) === upTo) behind.delete(chain);
    }
    for (const row of answers.at(-1)?.rows ?? []) {
      const endpoint = endpoints.get(row["id"] as WebhookId);
      if (endpoint === undefined || poked.has(endpoint.state.target.id)) continue;
      endpoint.state.dueAt = row["due_at"] === null ? NEVER : Number(row["due_at"]);
    }
    for (const [index, [endpoint]] of chosen.entries()) {
      const rows = answers[2 + 2 * chains.length + index]?.rows ?? [];
      // One that was deleted or disabled in this moment leaves them to their lease.
      if (endpoints.get(endpoint.state.target.id) !== endpoint) continue;
      for (const taken of takenRows(rows)) begin(endpoint, taken);
    }
  }

  function fanOutLimit(chain: WorkspaceId): number {
    const webhooks = endpoints.values().filter(({ state }) => state.target.workspaceId === chain);
    return Math.max(1, Math.floor(FANOUT_ROWS / Math.max(1, [...webhooks].length)));
  }

  /** Who may take how many now, of those that have something due, or may have once their chain's events are made into it. */
  function choose(now: number, fresh: ReadonlySet<WorkspaceId> = new Set()): [Endpoint, number][] {
    const applicants = [];
    const free = { ...MOST, all: MOST.all - inFlight };
    const freeOf = new Map<string, Free>();
    for (const endpoint of endpoints.values()) {
      const { state, pace } = endpoint;
      const owner = state.target.workspaceId;
      const busy = endpoint.inFlight.size;
      const isSlow = pace.isSlow();
      const owned = freeOf.getOrInsertComputed(owner, () => ({ ...MOST_OF_ONE }));
      owned.all -= busy;
      if (isSlow) for (const space of [free, owned]) space.slow -= busy;
      if (state.dueAt > now && !fresh.has(owner)) continue;
      const lastAt = state.lastAt ?? 0;
      applicants.push({ endpoint, owner, room: pace.room(busy, now), inFlight: busy, lastAt, isSlow });
    }
    const given = share(applicants, free, (owner) => freeOf.get(owner) ?? MOST_OF_ONE);
    return [...given].map(([{ endpoint }, count]) => [endpoint, count]);
  }

  function begin(endpoint: Endpoint, taken: Taken): void {
    const { body } = taken;
    if (body === null) {
      finish(endpoint.state.target.id, taken, { state: "dead", status: null, error: EVENT_GONE });
      return;
    }
    const controller = new AbortController();
    endpoint.inFlight.add(controller);
    inFlight++;
    void deliver(endpoint, { ...taken, body }, controller);
  }

  async function deliver(
    endpoint: Endpoint,
    taken: Taken & Sendable,
    controller: AbortController,
  ): Promise<void> {
    const outcome = await send(endpoint, taken, controller.signal);
    endpoint.inFlight.delete(controller);
    inFlight--;
    // Deleted, or left to its lease.
    if (controller.signal.aborted) return;
    settle(endpoint, taken, outcome);
    wake();
  }

  async function send(endpoint: Endpoint, event: Sendable, signal: AbortSignal): Promise<Outcome> {
    const { id, url } = endpoint.state.target;
    const secrets = endpoint.secrets(clock.now());
    const outcome = await attempt(parts, { url, secrets }, event, signal);
    if (signal.aborted) return outcome;
    const now = clock.now();
    if (outcome.ok) endpoint.pace.succeeded(outcome.tookMs);
    else endpoint.pace.failed(outcome.tookMs, now, outcome.retryAfterMs);
    const isLost = endpoint.learn(outcome, secrets, now);
    const { ok, status, error } = outcome;
    results.show({ webhookId: id, ok, at: now, status, error, failingSince: endpoint.state.failingSince });
    if (isGone(outcome)) lose(endpoint, "Its endpoint answered 410: gone.");
    else if (isLost) lose(endpoint, "Its endpoint failed for 5 days.");
    return outcome;
  }

  function settle(endpoint: Endpoint, taken: Taken, { ok, status, error, retryAfterMs }: Outcome): void {
    const { id } = endpoint.state.target;
    const delay = ok ? null : nextDelay(taken.attempts, retryAfterMs, random);
    const sinceEventMs = clock.now() - taken.eventAt / 1000;
    parts.meter?.attempted(ok ? "delivered" : delay === null ? "dead" : "failed", sinceEventMs);
    if (ok) return finish(id, taken, { state: "delivered", status, error: null });
    if (delay === null) return finish(id, taken, { state: "dead", status, error });
    finish(id, taken, { state: "waiting", status, error }, clock.now() + delay);
  }

  function finish(
    webhookId: WebhookId,
    { eventAt, attempts }: Taken,
    result: Pick<Recorded, "state" | "status" | "error">,
    dueAt = 0,
  ): void {
    results.add({ webhookId, eventAt, attempts, dueAt, ...result });
  }

  function lose(endpoint: Endpoint, reason: string): void {
    const { id } = endpoint.state.target;
    if (!endpoints.delete(id)) return;
    void parts.giveUp(id, reason).catch((error: unknown) => {
      log.error("a webhook could not be disabled", { webhook_id: id, cause: error });
      // Its next failure is the next try.
      endpoints.set(id, endpoint);
    });
  }

  return {
    /** An enabled webhook, new or changed. */
    put(target: Target): void {
      const known = endpoints.get(target.id);
      if (known === undefined) endpoints.set(target.id, createEndpoint(target, clock.now(), random));
      else known.state.target = target;
      wake();
    },

    /** Deleted or disabled; what is under way to it is broken off. */
    remove(id: WebhookId): void {
      const endpoint = endpoints.get(id);
      endpoints.delete(id);
      for (const controller of endpoint?.inFlight ?? []) controller.abort();
    },

    /** Somebody wants something of this webhook delivered now. */
    poke(id: WebhookId): void {
      const endpoint = endpoints.get(id);
      if (endpoint !== undefined) endpoint.state.dueAt = Math.min(endpoint.state.dueAt, clock.now());
      endpoint?.pace.open();
      poked.add(id);
      wake();
    },

    /** A chain's events up to here are on the disk. */
    publish(chain: WorkspaceId, upTo: number): void {
      if (stopping) return;
      behind.set(chain, Math.max(upTo, behind.get(chain) ?? 0));
      wake();
    },

    /** Whether any endpoint could want the chain's events. */
    serves: (chain: WorkspaceId) =>
      endpoints.values().some(({ state }) => state.target.workspaceId === chain),

    /** One attempt now, beside all deliveries, for a webhook that may be disabled. Its list shows it when this resolves. */
    async probe(target: Target, event: Sendable): Promise<Outcome> {
      const endpoint = endpoints.get(target.id) ?? createEndpoint(target, NEVER, random);
      const controller = new AbortController();
      endpoint.inFlight.add(controller);
      inFlight++;
      const outcome = await send(endpoint, event, controller.signal);
      endpoint.inFlight.delete(controller);
      inFlight--;
      wake();
      await results.stored();
      return outcome;
    },

    stats: () => ({
      endpoints: endpoints.size,
      inFlight,
      turns,
      /** How long the delivery that is longest overdue has been so, in milliseconds. */
      overdueMs: endpoints.values().reduce((most, { state }) => Math.max(most, clock.now() - state.dueAt), 0),
      /** Nothing is under way, and nothing is left to do before time passes. */
      isIdle: inFlight === 0 && !turning && turnTimer === null && results.isEmpty() && behind.size === 0,
    }),

    /** Lets what is under way end, for so long; the rest is left to its lease. */
    async stop(patienceMs: number): Promise<void> {
      stopping = true;
      cancelAlarm?.();
      const deadline = performance.now() + patienceMs;
      const isBusy = () => inFlight > 0 || !results.isEmpty() || turning;
      while (isBusy() && performance.now() < deadline) await Bun.sleep(5);
      for (const { inFlight } of endpoints.values()) for (const controller of inFlight) controller.abort();
      if (turnTimer !== null) clearTimeout(turnTimer);
    },
  };
}
