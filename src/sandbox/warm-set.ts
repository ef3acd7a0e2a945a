import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import type { Log } from "../log.ts";
import { hungUp } from "./admission.ts";
import type { Session } from "./session.ts";

/** What the set needs of a session: when it ends, and to end it. */
export type WarmSession = Pick<Session, "sandbox" | "alive" | "over" | "end">;

/** A session that stays while it is held. */
interface Lease<S> {
  readonly session: S;
  /** To be called once, when the call is over. */
  readonly release: () => void;
}

export interface WarmSet<S> {
  /** The namespace's session: the one it has, or a new one that concurrent calls share. */
  acquire(namespace: NamespaceId, signal?: AbortSignal): Promise<Lease<S>>;
  /** Ends the namespace's sandbox, if it has one, and what runs in it. Resolves when it is gone. */
  stop(namespace: NamespaceId): Promise<void>;
  has(namespace: NamespaceId): boolean;
  /** Ends them all and takes no more. */
  close(): Promise<void>;
  stats(): { warm: number; leases: number };
}

interface WarmLimits {
  readonly idleMs: number;
  /** Sessions kept; more only while all are in use. */
  readonly max: number;
}

interface Options<S> {
  /** Boots or attaches a sandbox and resolves when it can run commands. */
  readonly open: (namespace: NamespaceId) => Promise<S>;
  readonly limits: () => WarmLimits;
  /** Bytes that the host can still use without swapping. */
  readonly availableMemory: () => Promise<number>;
  readonly log: Log;
  /** How often idleness and memory are looked at. */
  readonly tickMs?: number;
}

interface Entry<S> {
  readonly opened: Promise<S>;
  /** undefined while it opens. */
  session: S | undefined;
  leases: number;
  idleSince: number;
}

/** With less memory on the host, idle sandboxes go. */
const MEMORY_FLOOR_BYTES = 256 * 1024 * 1024;

/** The sandboxes that api holds, one for each namespace that ran a command lately. */
export function createWarmSet<S extends WarmSession>(options: Options<S>): WarmSet<S> {
  const { open, limits, availableMemory, log, tickMs = 2_000 } = options;
  /** Least recently used first. */
  const entries = new Map<NamespaceId, Entry<S>>();
  let ticking: Timer | undefined;
  let closed = false;

  function add(namespace: NamespaceId): Entry<S> {
    const opened = open(namespace);
    const entry: Entry<S> = { opened, session: undefined, leases: 0, idleSince: performance.now() };
    entries.set(namespace, entry);
    ticking ??= setInterval(tick, tickMs).unref();
    void watch(namespace, entry);
    evict();
    return entry;
  }

  async function watch(namespace: NamespaceId, entry: Entry<S>): Promise<void> {
    try {
      entry.session = await entry.opened;
      await entry.session.over;
    } catch {
      // Those who wait for `opened` get the error; here it only means that there is nothing to keep.
    }
    forget(namespace, entry);
  }

  function forget(namespace: NamespaceId, entry: Entry<S>): void {
    if (entries.get(namespace) === entry) entries.delete(namespace);
    if (entries.size > 0) return;
    clearInterval(ticking);
    ticking = undefined;
  }

  function hold(entry: Entry<S>): () => void {
    entry.leases += 1;
    return () => {
      entry.leases -= 1;
      entry.idleSince = performance.now();
      if (entries.size > limits().max) evict();
    };
  }

  /** Sessions that nobody uses, least recently used first. */
  function* idle(): Generator<Entry<S> & { session: S }> {
    for (const entry of entries.values()) {
      if (entry.leases === 0 && entry.session?.alive === true) yield { ...entry, session: entry.session };
    }
  }

  /** Down to the limit, as far as sessions are idle. */
  function evict(): void {
    let excess = -limits().max;
    for (const { session } of entries.values()) if (session?.alive !== false) excess += 1;
    for (const { session } of idle()) {
      if (excess-- <= 0) return;
      void session.end("its sandbox made room for another.");
    }
  }

  function tick(): void {
    const oldest = performance.now() - limits().idleMs;
    for (const { session, idleSince } of idle()) {
      if (idleSince <= oldest) void session.end("its sandbox was idle.");
    }
    if (!idle().next().done) void relieveMemory();
  }

  /** Ends a quarter of the idle ones: what that gives back shows by the next tick. */
  async function relieveMemory(): Promise<void> {
    const availableBytes = await availableMemory().catch(() => Infinity);
    if (availableBytes >= MEMORY_FLOOR_BYTES) return;
    const all = [...idle()];
    log.warn("memory is short, idle sandboxes are stopped", { availableBytes, idle: all.length });
    for (const { session } of all.slice(0, Math.ceil(all.length / 4))) {
      void session.end("the host is short of memory.");
    }
  }

  return {
    async acquire(namespace, signal) {
      for (;;) {
        if (closed) throw stopping();
        let entry = entries.get(namespace);
        if (entry?.session?.alive === false) {
          // sandboxd must be done with the old one, or it would name it again.
          await orAbort(entry.session.over, signal);
          continue;
        }
        entry ??= add(namespace);
        // Counted from here, so that it is not evicted between its start and its use.
        const lease = hold(entry);
        try {
          const session = entry.session ?? (await orAbort(entry.opened, signal));
          if (session.alive) {
            entries.delete(namespace);
            entries.set(namespace, entry);
            return { session, release: lease };
          }
        } catch (error) {
          lease();
          throw error;
        }
        lease();
      }
    },

    async stop(namespace) {
      const entry = entries.get(namespace);
      if (entry === undefined) return;
      const session = await entry.opened.catch(() => undefined);
      await session?.end("its namespace was stopped.");
    },

    has: (namespace) => entries.has(namespace),

    async close() {
      closed = true;
      await Promise.all(
        [...entries.values()].map(async ({ opened }) => {
          const session = await opened.catch(() => undefined);
          await session?.end("the server was stopped.");
        }),
      );
    },

    stats: () => ({
      warm: entries.size,
      leases: [...entries.values()].reduce((sum, { leases }) => sum + leases, 0),
    }),
  };
}

function stopping(): AppError {
  return new AppError("unavailable", "The server is stopping. Try again in a moment.", { retryAfterS: 5 });
}

/** The promise goes on for others when this caller's signal fires. */
async function orAbort<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await promise;
  if (signal.aborted) throw hungUp();
  const aborted = Promise.withResolvers<never>();
  const onAbort = (): void => aborted.reject(hungUp());
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
