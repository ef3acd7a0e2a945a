import type { NamespaceId, SandboxId } from "../ids.ts";
import type { Log } from "../log.ts";
import type { Sandbox } from "./boot.ts";
import { explain, OperationError } from "../protocol/lines/failure.ts";
import { createTurns } from "../turns.ts";
import type { Pool } from "./pool.ts";

/** What a sandbox is in: the pool, one tenant's use (for good), or its end. */
type Life =
  | { readonly kind: "spare" }
  | { readonly kind: "tenant"; readonly namespace: NamespaceId }
  | { readonly kind: "ending"; readonly namespace: NamespaceId | null; readonly gone: Promise<void> };

interface Entry {
  readonly sandbox: Sandbox;
  life: Life;
  /** Set while it stands still: lets it go on when nobody else does. */
  standing: Timer | null;
}

export interface Fate {
  readonly oom: boolean;
}

/** What the table needs done on the host. */
export interface SandboxHost {
  /** Throws when the namespace's volume can't be attached now. */
  checkVolume(namespace: NamespaceId): void;
  /** Gives the sandbox its tenant: for good, also when it fails. */
  attach(sandbox: Sandbox, namespace: NamespaceId): void;
  isAlive(sandbox: Sandbox): boolean;
  /** Asked before teardown, once the sandbox is over. */
  fate(sandbox: Sandbox): Fate;
  /** Kills what still runs and removes all of it. */
  teardown(sandbox: Sandbox): Promise<void>;
  memoryBytes(sandbox: Sandbox): number | null;
  /** Resolves when nothing of it runs any more; after a throw it runs. */
  makeStand(sandbox: Sandbox): Promise<void>;
  /** Once for each makeStand that did not throw. */
  letGo(sandbox: Sandbox): Promise<void>;
  dirtyBytes(sandbox: Sandbox): number;
}

export interface SandboxesOptions {
  readonly pool: Pool<Sandbox>;
  readonly host: SandboxHost;
  /** Tenants' sandboxes at most: api evicts long before; this holds if api does not. */
  readonly limit: number;
  readonly log: Log;
  readonly fateMs?: number;
  readonly endWaitMs?: number;
  readonly freezeMs?: number;
}

export interface Ensured {
  readonly sandbox: SandboxId;
  readonly nonce: string;
  readonly from_pool: boolean;
}

export interface Sandboxes {
  /** Takes a sandbox into the table, with its tenant or none: one just booted, or found alive at the start. */
  enter(sandbox: Sandbox, namespace: NamespaceId | null): void;
  ensure(namespace: NamespaceId): Promise<Ensured>;
  stop(id: SandboxId): Promise<void>;
  /** False when the namespace has no sandbox. A frozen one goes on by itself after a while. */
  freeze(namespace: NamespaceId): Promise<boolean>;
  /** Whether it stood still until now; it goes on when this resolves. */
  thaw(namespace: NamespaceId): Promise<boolean>;
  inspect(id: SandboxId): Promise<{ state: "running" | "gone"; oom: boolean }>;
  has(id: SandboxId): boolean;
  /** Whether a sandbox has the namespace's volume, also one that is ending. */
  hasTenant(namespace: NamespaceId): boolean;
  list(): {
    sandbox: SandboxId;
    namespace: NamespaceId | null;
    started_at: string;
    memory_bytes: number | null;
  }[];
  writers(): { namespace: NamespaceId; dirty_bytes: number }[];
  /** Ends every sandbox. */
  stopAll(): Promise<void>;
  /** Resolves when the ends that are under way are over. */
  settled(): Promise<void>;
  /** Resolves when every sandbox there is now has ended, by itself or not. */
  emptied(): Promise<void>;
}

/**
 * The table of sandboxes, and its rules: a namespace has at most one; calls for one namespace take turns, those for
 * different ones don't; a sandbox that was given to a tenant never goes to another and never back to the pool.
 */
export function createSandboxes(options: SandboxesOptions): Sandboxes {
  const { pool, host, limit, log, fateMs = 60_000, endWaitMs = 1_000, freezeMs = 10_000 } = options;
  const entries = new Map<SandboxId, Entry>();
  const tenants = new Map<NamespaceId, Entry>();
  const fates = new Map<SandboxId, Fate>();
  const turns = createTurns();
  /** Namespaces that wait for a sandbox: they count as having one. */
  let claiming = 0;

  function enter(sandbox: Sandbox, namespace: NamespaceId | null): void {
    const entry: Entry = {
      sandbox,
      life: namespace === null ? { kind: "spare" } : { kind: "tenant", namespace },
      standing: null,
    };
    entries.set(sandbox.names.id, entry);
    if (namespace !== null) tenants.set(namespace, entry);
    void watch(entry);
  }

  async function watch(entry: Entry): Promise<void> {
    await entry.sandbox.ended;
    if (entry.life.kind === "ending") return;
    const { names, complaint } = entry.sandbox;
    log.info("a sandbox ended by itself", {
      sandbox: names.id,
      life: entry.life.kind,
      complaint: complaint(),
    });
    await end(entry).catch(() => {});
  }

  /** Once per sandbox; a second call waits for the first. Rejects when something of it is left on the host. */
  function end(entry: Entry): Promise<void> {
    if (entry.life.kind === "ending") return entry.life.gone;
    const namespace = entry.life.kind === "tenant" ? entry.life.namespace : null;
    if (entry.standing !== null) clearTimeout(entry.standing);
    entry.standing = null;
    pool.forget(entry.sandbox);
    const gone = finish(entry, namespace);
    entry.life = { kind: "ending", namespace, gone };
    return gone;
  }

  async function finish({ sandbox }: Entry, namespace: NamespaceId | null): Promise<void> {
    const { id } = sandbox.names;
    try {
      try {
        remember(id, host.fate(sandbox));
      } finally {
        await host.teardown(sandbox);
      }
    } catch (error) {
      log.error("a sandbox is not wholly removed", { sandbox: id, error: explain(error) });
      throw error;
    } finally {
      entries.delete(id);
      if (namespace !== null && tenants.get(namespace)?.sandbox === sandbox) tenants.delete(namespace);
    }
  }

  function remember(id: SandboxId, fate: Fate): void {
    fates.set(id, fate);
    setTimeout(() => fates.delete(id), fateMs).unref();
  }

  /** The namespace's living sandbox. One that has died, or is about to, is seen to its end first. */
  async function current(namespace: NamespaceId): Promise<Sandbox | undefined> {
    const entry = tenants.get(namespace);
    if (entry === undefined) return undefined;
    if (entry.life.kind === "tenant" && host.isAlive(entry.sandbox)) return entry.sandbox;
    await end(entry).catch(() => {});
    return undefined;
  }

  /** A spare that is alive at the moment it is given away. */
  async function claim(namespace: NamespaceId): Promise<{ entry: Entry; fromPool: boolean }> {
    claiming += 1;
    try {
      for (;;) {
        const { spare, fromPool } = await pool.take();
        const entry = entries.get(spare.names.id);
        if (entry === undefined || entry.life.kind !== "spare") continue;
        if (!host.isAlive(spare)) {
          end(entry).catch(() => {});
          continue;
        }
        entry.life = { kind: "tenant", namespace };
        tenants.set(namespace, entry);
        return { entry, fromPool };
      }
    } finally {
      claiming -= 1;
    }
  }

  /** Whether it stood still until now. One that then does not go on is ended. */
  async function letGo(entry: Entry): Promise<boolean> {
    const { standing, sandbox } = entry;
    if (standing === null) return false;
    clearTimeout(standing);
    entry.standing = null;
    if (entry.life.kind !== "tenant") return false;
    try {
      await host.letGo(sandbox);
    } catch (error) {
      log.error("a sandbox did not go on after a snapshot", {
        sandbox: sandbox.names.id,
        error: explain(error),
      });
      await end(entry).catch(() => {});
    }
    return true;
  }

  return {
    enter,

    ensure: (namespace) =>
      turns.run(namespace, async () => {
        const living = await current(namespace);
        if (living !== undefined) return { sandbox: living.names.id, nonce: living.nonce, from_pool: false };
        if (tenants.size + claiming >= limit)
          throw new OperationError("unavailable", `${limit} sandboxes are in use already`);
        host.checkVolume(namespace);
        const { entry, fromPool } = await claim(namespace);
        try {
          host.attach(entry.sandbox, namespace);
        } catch (error) {
          await end(entry).catch(() => {});
          throw error;
        }
        return { sandbox: entry.sandbox.names.id, nonce: entry.sandbox.nonce, from_pool: fromPool };
      }),

    async stop(id) {
      const entry = entries.get(id);
      if (entry === undefined) return;
      if (entry.life.kind !== "tenant") return await end(entry);
      await turns.run(entry.life.namespace, () => end(entry));
    },

    freeze: (namespace) =>
      turns.run(namespace, async () => {
        const sandbox = await current(namespace);
        const entry = tenants.get(namespace);
        if (sandbox === undefined || entry === undefined) return false;
        if (entry.standing !== null) throw new OperationError("unavailable", "it stands still already");
        await host.makeStand(sandbox);
        if (entry.life.kind !== "tenant") return false;
        entry.standing = setTimeout(() => {
          log.warn("a sandbox stood still for too long and goes on", { sandbox: sandbox.names.id });
          void turns.run(namespace, () => letGo(entry));
        }, freezeMs);
        return true;
      }),

    thaw: (namespace) =>
      turns.run(namespace, async () => {
        const entry = tenants.get(namespace);
        return entry !== undefined && (await letGo(entry));
      }),

    async inspect(id) {
      const entry = entries.get(id);
      if (entry !== undefined) {
        // api asks when the connection has ended, which is a moment before the processes have.
        const over = entry.life.kind === "ending" ? entry.life.gone.catch(() => {}) : entry.sandbox.ended;
        const waited = await Promise.race([over, later(endWaitMs)]);
        if (waited === "later") return { state: "running", oom: false };
        if (entry.life.kind === "ending") await entry.life.gone.catch(() => {});
      }
      return { state: "gone", oom: fates.get(id)?.oom ?? false };
    },

    has: (id) => entries.has(id),
    hasTenant: (namespace) => tenants.has(namespace),

    list: () =>
      [...entries.values()].map(({ sandbox, life }) => ({
        sandbox: sandbox.names.id,
        namespace: life.kind === "spare" ? null : life.namespace,
        started_at: sandbox.startedAt,
        memory_bytes: host.memoryBytes(sandbox),
      })),

    writers: () =>
      [...tenants].map(([namespace, { sandbox }]) => ({ namespace, dirty_bytes: host.dirtyBytes(sandbox) })),

    async stopAll() {
      const ends = await Promise.allSettled([...entries.values()].map(end));
      const failures = ends.flatMap((outcome) =>
        outcome.status === "rejected" ? [outcome.reason as unknown] : [],
      );
      if (failures.length > 0) throw new AggregateError(failures, "not every sandbox is wholly removed");
    },

    async settled() {
      const ends = [...entries.values()].flatMap(({ life }) => (life.kind === "ending" ? [life.gone] : []));
      await Promise.allSettled(ends);
    },

    async emptied() {
      await Promise.all([...entries.values()].map(({ sandbox }) => sandbox.ended));
    },
  };
}

function later(ms: number): Promise<"later"> {
  return new Promise((resolve) => setTimeout(() => resolve("later"), ms).unref());
}
