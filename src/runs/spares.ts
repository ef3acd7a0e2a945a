import { foreseen } from "../errors.ts";
import { runId, type RunId } from "../ids.ts";
import type { OperationResult } from "../protocol/sandboxd.ts";
import type { LifeParts } from "./parts.ts";
import { pauseFor } from "./patience.ts";

export type Sandbox = OperationResult<"startRun">;

export interface SparesParts extends Pick<LifeParts, "sandboxd" | "output" | "worktrees" | "log"> {
  /** How many should wait. */
  readonly target: () => number;
  /** Resolves once the host has room for one more. */
  readonly room: (signal: AbortSignal) => Promise<void>;
  /** Whether it has room for one that somebody waits for. */
  readonly hasRoom: () => Promise<boolean>;
  /** Aborted when api stops. */
  readonly closing: AbortSignal;
}

export type Spares = ReturnType<typeof createSpares>;

/** What a run was promised. */
export interface Taken {
  /** Whether it waited before the run was asked for. */
  readonly waited: boolean;
  /** Whether it boots, or has; false where there was no room. */
  readonly begun: Promise<boolean>;
  readonly sandbox: Promise<Sandbox>;
}

const RETRY_MS = 1_000;
/** The run that took one goes first. */
const REFILL_AFTER_MS = 300;

/**
 * Sandboxes that are booted before anybody asks, each for one run: its id is the run's, its worktree is empty, and nothing
 * of a tenant is in it. They are api's alone to know: those that an api leaves behind are removed by the next. Where none
 * waits, a run that may live at once gets one that begins to boot while its row is made.
 */
export function createSpares(parts: SparesParts) {
  const { sandboxd, output, worktrees, target, closing, log } = parts;
  const ready = new Map<RunId, Sandbox>();
  const booting = new Map<RunId, Promise<void>>();
  /** Taken for a run that has not begun with it. */
  const taken = new Map<RunId, Taken>();
  /** Those of runs that were refused, while they boot. */
  const given = new Map<RunId, Taken>();

  function fill(): void {
    while (!closing.aborted && ready.size + booting.size < target()) {
      const id = runId.make();
      booting.set(id, boot(id));
    }
  }

  async function boot(id: RunId): Promise<void> {
    let booted = false;
    try {
      await parts.room(closing);
      ready.set(id, await startIn(id, true));
      booted = true;
    } catch (error) {
      await discard(id);
      if (closing.aborted) return;
      if (foreseen(error)?.code !== "unavailable")
        log.warn("a spare run's sandbox did not boot", { cause: error });
      await pauseFor(RETRY_MS, closing);
    } finally {
      booting.delete(id);
    }
    if (!booted) fill();
  }

  async function startIn(id: RunId, spare: boolean): Promise<Sandbox> {
    worktrees.prepare(id);
    output.prepare(id);
    return sandboxd.call("startRun", { run: id, spare });
  }

  function newOne(): [RunId, Taken] {
    const id = runId.make();
    return [id, beginNow(id)];
  }

  function beginNow(id: RunId): Taken {
    const begun = parts.hasRoom();
    const sandbox = begun.then(async (fits) => {
      if (!fits) throw new Error("the host has no memory for it");
      return startIn(id, false);
    });
    // Whoever claims it hears of that.
    sandbox.catch(() => {});
    return { waited: false, begun, sandbox };
  }

  /** Its sandbox, if there is one still, is removed as any that has no run. */
  async function discard(id: RunId): Promise<void> {
    try {
      await output.remove(id);
      await worktrees.remove(id);
    } catch (cause) {
      log.warn("what a spare run had is not wholly removed", { run: id, cause });
    }
  }

  async function remove(id: RunId): Promise<void> {
    ready.delete(id);
    await sandboxd.call("stopRun", { run: id });
    await sandboxd.call("forgetRun", { run: id });
    await discard(id);
  }

  return {
    fill,

    /** Once `closing` is aborted: none is left, but for want of a sandboxd. The next api removes what is. */
    async close(patienceMs: number): Promise<void> {
      const gone = Promise.allSettled(booting.values()).then(async () =>
        Promise.allSettled([...ready.keys()].map(remove)),
      );
      await Promise.race([gone, Bun.sleep(patienceMs)]);
    },

    /** Until its run claims it: one that is taken may have no run yet. */
    isSpare: (id: RunId) => ready.has(id) || booting.has(id) || taken.has(id) || given.has(id),
    /** Those that wait by now. */
    waiting: () => [...ready.keys()],

    /** For a run that is about to be made, and may live at once. */
    take(): RunId {
      const [first] = ready;
      if (first === undefined) {
        const [id, its] = given.entries().next().value ?? newOne();
        given.delete(id);
        taken.set(id, its);
        return id;
      }
      const [id, sandbox] = first;
      ready.delete(id);
      taken.set(id, { waited: true, begun: Promise.resolve(true), sandbox: Promise.resolve(sandbox) });
      setTimeout(fill, REFILL_AFTER_MS);
      return id;
    },

    /**
     * There was no run after all: the next one gets it, also while it boots, so that refused calls boot one sandbox and not
     * one each, and none that the next one's would be one too many with.
     */
    async giveBack(id: RunId): Promise<void> {
      const its = taken.get(id);
      if (its === undefined) return;
      taken.delete(id);
      given.set(id, its);
      const sandbox = await its.sandbox.catch(() => null);
      // Unless another has it by now, or had it and has given it back as well.
      if (!given.delete(id)) return;
      if (sandbox !== null) ready.set(id, sandbox);
      else await discard(id);
    },

    /** The sandbox that a run was made with; null for one that had to wait for its turn. */
    claim(id: RunId): Taken | null {
      const its = taken.get(id) ?? null;
      taken.delete(id);
      return its;
    },

    /** Its sandbox is gone: sandboxd keeps none for longer than UNADMITTED_S. One that was taken is missed by its run. */
    lost(id: RunId): void {
      if (!ready.delete(id)) return;
      log.info("a spare run's sandbox has ended; another is booted", { run: id });
      void discard(id).then(fill);
    },
  };
}
