import type { Log } from "../log.ts";
import { ApiAway } from "./connection.ts";
import { explain, OperationError } from "../protocol/lines/failure.ts";

export interface Taken<S> {
  readonly spare: S;
  /** false: it was booted because somebody waited. */
  readonly fromPool: boolean;
}

export interface Pool<S> {
  /** A booted spare, the caller's own from now on; the next one that boots when there is none. */
  take(): Promise<Taken<S>>;
  /** Puts in one that is booted already. */
  add(spare: S): void;
  /** Takes one out that is no more; false when it is not here. */
  forget(spare: S): boolean;
  /** Tries to fill up now, whatever failed before. */
  wake(): void;
  status(): { target: number; ready: number; booting: number };
  /** Boots nothing more; resolves when what is booting has come to its end. */
  stop(): Promise<void>;
}

export interface PoolOptions<S> {
  readonly target: number;
  /** Boots at a time. */
  readonly parallel: number;
  readonly boot: () => Promise<S>;
  readonly log: Log;
  /** How long after a take the place is filled again, so that the taker's first command has the CPU to itself. */
  readonly refillDelayMs?: number;
  readonly backoffMs?: { readonly first: number; readonly most: number };
}

interface Waiter<S> {
  readonly resolve: (taken: Taken<S>) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Sandboxes that wait for a tenant, each for one. There is one queue: who finds none waits for the next that boots,
 * also when it was begun to fill the pool, and boots for those who wait are begun at once.
 */
export function createPool<S>(options: PoolOptions<S>): Pool<S> {
  const {
    target,
    parallel,
    boot,
    log,
    refillDelayMs = 100,
    backoffMs = { first: 250, most: 30_000 },
  } = options;
  const ready: S[] = [];
  const waiters: Waiter<S>[] = [];
  const boots = new Set<Promise<void>>();
  let failures = 0;
  /** While it runs, only those who wait get a boot. */
  let pause: NodeJS.Timeout | undefined;
  let stopped = false;

  function pump(): void {
    if (stopped) return;
    const spares = pause === undefined ? Math.max(0, target - ready.length) : 0;
    while (boots.size < parallel && boots.size < waiters.length + spares) {
      const one = bootOne().finally(() => {
        boots.delete(one);
        pump();
      });
      boots.add(one);
    }
  }

  async function bootOne(): Promise<void> {
    try {
      const spare = await boot();
      failures = 0;
      resume();
      const waiter = waiters.shift();
      if (waiter === undefined) ready.push(spare);
      else waiter.resolve({ spare, fromPool: false });
    } catch (error) {
      failures += 1;
      const away = error instanceof ApiAway;
      const delayMs = away
        ? backoffMs.first
        : Math.min(backoffMs.most, backoffMs.first * 2 ** (failures - 1));
      holdBack(delayMs);
      if (!away) log.error("a sandbox did not boot", { failures, retryMs: delayMs, error: explain(error) });
      waiters.shift()?.reject(error);
    }
  }

  function holdBack(delayMs: number): void {
    clearTimeout(pause);
    pause = setTimeout(() => {
      pause = undefined;
      pump();
    }, delayMs);
    pause.unref();
  }

  function resume(): void {
    clearTimeout(pause);
    pause = undefined;
  }

  return {
    async take() {
      if (stopped) throw new OperationError("unavailable", "sandboxd is stopping");
      const spare = ready.shift();
      if (spare !== undefined) {
        if (pause === undefined) holdBack(refillDelayMs);
        return { spare, fromPool: true };
      }
      return await new Promise<Taken<S>>((resolve, reject) => {
        waiters.push({ resolve, reject });
        pump();
      });
    },

    add(spare) {
      ready.push(spare);
    },

    forget(spare) {
      const place = ready.indexOf(spare);
      if (place === -1) return false;
      ready.splice(place, 1);
      pump();
      return true;
    },

    wake() {
      failures = 0;
      resume();
      pump();
    },

    status: () => ({ target, ready: ready.length, booting: boots.size }),

    async stop() {
      stopped = true;
      resume();
      for (const { reject } of waiters.splice(0))
        reject(new OperationError("unavailable", "sandboxd is stopping"));
      await Promise.all(boots);
    },
  };
}
