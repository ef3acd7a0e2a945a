import { AppError } from "../errors.ts";

export interface AdmissionLimits {
  /** Calls that run at once, of all namespaces. */
  readonly concurrency: number;
  readonly perNamespace: number;
  /** Calls that wait, of all namespaces. */
  readonly queue: number;
  /** How long a call may wait before it is told to come back. */
  readonly maxWaitMs: number;
}

export type Release = () => void;

interface Waiter {
  readonly admit: () => void;
  readonly refuse: (error: AppError) => void;
}

interface Lane {
  running: number;
  readonly waiting: Waiter[];
}

export interface Admission {
  /** Resolves when the call of this owner, a namespace, may run; the caller then must call the release, once. */
  admit(owner: string, signal?: AbortSignal): Promise<Release>;
  /** Refuses all that wait, with this error. */
  refuseWaiting(error: AppError): void;
  /** Resolves when nothing runs. */
  idle(): Promise<void>;
  stats(): { running: number; waiting: number; namespaces: number };
}

/**
 * Who may run now. Namespaces take turns; within one, first come, first served. When the queue is full, a
 * newcomer takes the last place of the namespace that waits with the most, so no namespace can fill the queue alone.
 * Limits that change hold for what comes after.
 */
export function createAdmission(limits: () => AdmissionLimits): Admission {
  /** Has every namespace that runs or waits. Its order is whose turn it is: one that was served goes to the end. */
  const lanes = new Map<string, Lane>();
  let running = 0;
  let waiting = 0;
  const idlers: (() => void)[] = [];

  function tidy(namespace: string, lane: Lane): void {
    if (lane.running === 0 && lane.waiting.length === 0) lanes.delete(namespace);
  }

  function start(namespace: string, lane: Lane): Release {
    running += 1;
    lane.running += 1;
    lanes.delete(namespace);
    lanes.set(namespace, lane);
    let released = false;
    return () => {
      if (released) return;
      released = true;
      running -= 1;
      lane.running -= 1;
      tidy(namespace, lane);
      next();
      if (running === 0) for (const wake of idlers.splice(0)) wake();
    };
  }

  function next(): void {
    if (waiting === 0 || running >= limits().concurrency) return;
    for (const lane of lanes.values()) {
      if (lane.running >= limits().perNamespace) continue;
      const waiter = lane.waiting.shift();
      if (waiter === undefined) continue;
      waiting -= 1;
      waiter.admit();
      return;
    }
  }

  /** True when there is a free place in the queue for this lane, or one could be taken from a lane that has more. */
  function findPlace(lane: Lane): boolean {
    if (waiting < limits().queue) return true;
    let longest: Lane | undefined;
    for (const other of lanes.values()) {
      if (other.waiting.length > (longest?.waiting.length ?? 0)) longest = other;
    }
    // By two at least: a lane that is one longer would only lose a place that it then takes back.
    if (longest === undefined || longest.waiting.length < lane.waiting.length + 2) return false;
    longest.waiting.pop()?.refuse(busy());
    waiting -= 1;
    return true;
  }

  return {
    async admit(namespace, signal) {
      if (signal?.aborted === true) throw hungUp();
      let lane = lanes.get(namespace);
      if (lane === undefined) {
        lane = { running: 0, waiting: [] };
        lanes.set(namespace, lane);
      }
      if (
        running < limits().concurrency &&
        lane.running < limits().perNamespace &&
        lane.waiting.length === 0
      ) {
        return start(namespace, lane);
      }
      if (!findPlace(lane)) {
        tidy(namespace, lane);
        throw busy();
      }
      return await wait(namespace, lane, signal);
    },

    refuseWaiting(error) {
      for (const [namespace, lane] of lanes) {
        for (const waiter of lane.waiting.splice(0)) waiter.refuse(error);
        tidy(namespace, lane);
      }
      waiting = 0;
    },

    async idle() {
      if (running > 0) await new Promise<void>((resolve) => idlers.push(resolve));
    },

    stats: () => ({ running, waiting, namespaces: lanes.size }),
  };

  async function wait(namespace: string, lane: Lane, signal: AbortSignal | undefined): Promise<Release> {
    const { promise, resolve, reject } = Promise.withResolvers<Release>();
    const waiter: Waiter = { admit: () => resolve(start(namespace, lane)), refuse: reject };
    lane.waiting.push(waiter);
    waiting += 1;

    const leave = (error: AppError): void => {
      const place = lane.waiting.indexOf(waiter);
      if (place === -1) return;
      lane.waiting.splice(place, 1);
      waiting -= 1;
      tidy(namespace, lane);
      reject(error);
    };
    const timer = setTimeout(() => leave(busy()), limits().maxWaitMs);
    const onAbort = (): void => leave(hungUp());
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    }
  }
}

function busy(): AppError {
  return new AppError("busy", "Too many calls are running or waiting. Try again in a moment.", {
    retryAfterS: 1,
  });
}

/** The caller is gone, so nobody reads this but the log. */
export function hungUp(): AppError {
  return new AppError("timeout", "The caller hung up, so the command was stopped.");
}
