import type { NamespaceId } from "../ids.ts";
import type { Log } from "../log.ts";

/** What it takes before a namespace's files can be touched, and afterwards. */
export interface Opener {
  /** Everything is there when it resolves. Not called again before `close`; never twice at once. */
  open(id: NamespaceId): Promise<void>;
  /** Nobody holds a lease, or gets one before it resolves. */
  close(id: NamespaceId): Promise<void>;
}

/** "read" keeps the volume open; "write" besides keeps others from having it to themselves. */
export type LeaseMode = "read" | "write";

interface Entry {
  /** Turns of opening and closing: the last one. Rejected when the volume could not be opened. */
  opened: Promise<void>;
  isOpen: boolean;
  /** All who hold it or wait for it. */
  leases: number;
  writers: number;
  /** The last of those who want it to themselves, in turn. */
  exclusive: Promise<void> | null;
  onNoWriter: (() => void) | null;
  idleSince: number;
}

export interface LeasesParts {
  readonly opener: Opener;
  readonly idleMs: () => number;
  /** Whether something else still uses the volume: its sandbox. */
  readonly inUse: (id: NamespaceId) => boolean;
  readonly log: Pick<Log, "warn">;
  /** How often idleness is looked at. */
  readonly tickMs?: number;
}

export type Leases = ReturnType<typeof createLeases>;

/**
 * Who touches a namespace's files holds a lease meanwhile. The first one opens the volume, which stays open until nobody
 * has used it for a while. Work on the files as a whole, a snapshot or a restore, has them to itself for a moment.
 */
export function createLeases({ opener, idleMs, inUse, log, tickMs = 2_000 }: LeasesParts) {
  const entries = new Map<NamespaceId, Entry>();
  const ticking = setInterval(tick, tickMs).unref();

  function newEntry(id: NamespaceId, opened: Promise<void>): Entry {
    const entry: Entry = {
      opened,
      isOpen: false,
      leases: 0,
      writers: 0,
      exclusive: null,
      onNoWriter: null,
      idleSince: 0,
    };
    entries.set(id, entry);
    return entry;
  }

  function opening(id: NamespaceId): Entry {
    const entry = newEntry(id, opener.open(id));
    entry.opened.then(
      () => (entry.isOpen = true),
      // The next who wants it tries again.
      () => void (entries.get(id) === entry && entries.delete(id)),
    );
    return entry;
  }

  /** From here on it is not closed, and every join is ended by a leave. */
  function join(id: NamespaceId): Entry {
    const entry = entries.get(id) ?? opening(id);
    entry.leases += 1;
    return entry;
  }

  async function enter(id: NamespaceId, mode: LeaseMode): Promise<Entry> {
    const entry = join(id);
    try {
      if (!entry.isOpen) await entry.opened;
      if (mode === "read") return entry;
      while (entry.exclusive !== null) await entry.exclusive;
      entry.writers += 1;
      return entry;
    } catch (error) {
      leave(entry, "read");
      throw error;
    }
  }

  function leave(entry: Entry, mode: LeaseMode): void {
    if (mode === "write" && --entry.writers === 0) entry.onNoWriter?.();
    if (--entry.leases === 0) entry.idleSince = performance.now();
  }

  async function hold<T>(id: NamespaceId, mode: LeaseMode, work: () => Promise<T>): Promise<T> {
    const entry = await enter(id, mode);
    try {
      return await work();
    } finally {
      leave(entry, mode);
    }
  }

  function tick(): void {
    const oldest = performance.now() - idleMs();
    for (const [id, entry] of entries) {
      if (entry.isOpen && entry.leases === 0 && entry.idleSince <= oldest && !inUse(id)) close(id, entry);
    }
  }

  function close(id: NamespaceId, entry: Entry, by: "held" | "unheld" = "held"): void {
    entry.isOpen = false;
    entry.opened = closing(id, entry, by);
    entry.opened.catch(() => void (entries.get(id) === entry && entries.delete(id)));
  }

  /** Whoever comes meanwhile waits, and then has it opened anew. */
  async function closing(id: NamespaceId, entry: Entry, by: "held" | "unheld"): Promise<void> {
    // One that somebody else has opened may lack what opening it here does.
    if ((await closed(id)) || by === "unheld") {
      if (entry.leases === 0) {
        if (entries.get(id) === entry) entries.delete(id);
        return;
      }
      await opener.open(id);
    }
    entry.isOpen = true;
    entry.idleSince = performance.now();
  }

  /** false: it is still open. */
  async function closed(id: NamespaceId): Promise<boolean> {
    try {
      await opener.close(id);
      return true;
    } catch (error) {
      log.warn("a volume could not be closed; it is tried again", { namespace: id, error: String(error) });
      return false;
    }
  }

  return {
    hold,

    /** For what does not end with a function. The answer is to be called once. */
    async acquire(id: NamespaceId, mode: LeaseMode): Promise<() => void> {
      const entry = await enter(id, mode);
      return () => leave(entry, mode);
    },

    /** Runs `work` while nobody writes: those who do end first, and those who come wait. For short work. */
    async exclusive<T>(id: NamespaceId, work: () => Promise<T>): Promise<T> {
      const entry = join(id);
      const { promise, resolve } = Promise.withResolvers<void>();
      const before = entry.exclusive;
      entry.exclusive = promise;
      try {
        if (!entry.isOpen) await entry.opened;
        await before;
        if (entry.writers > 0) await new Promise<void>((done) => (entry.onNoWriter = done));
        return await work();
      } finally {
        entry.onNoWriter = null;
        if (entry.exclusive === promise) entry.exclusive = null;
        resolve();
        leave(entry, "read");
      }
    },

    isOpen: (id: NamespaceId) => entries.get(id)?.isOpen === true,

    /** Closes a volume that somebody else has left open. Whoever comes meanwhile waits, and then has it opened. */
    closeUnheld(id: NamespaceId): void {
      if (!entries.has(id) && !inUse(id)) close(id, newEntry(id, Promise.resolve()), "unheld");
    },

    /** Forgets a volume that is gone; what it takes to close it is its remover's. */
    forget(id: NamespaceId): void {
      entries.delete(id);
    },

    stop(): void {
      clearInterval(ticking);
    },
  };
}
