import { setImmediate } from "node:timers/promises";

interface Waiting<T> {
  readonly member: T;
  readonly done: () => void;
  readonly failed: (error: unknown) => void;
}

export interface Lane<T> {
  /** Resolves when a turn that began after this call has ended well. */
  join(member: T): Promise<void>;
  /** Resolves when nothing is under way or waits. */
  idle(): Promise<void>;
  readonly busy: boolean;
}

/** One turn at a time; all who came while one was under way share the next. */
export function createLane<T>(perform: (members: readonly T[]) => Promise<void>): Lane<T> {
  let waiting: Waiting<T>[] = [];
  let draining: Promise<void> | null = null;

  async function drain(): Promise<void> {
    // What else arrives in this turn of the event loop goes along.
    await setImmediate();
    while (waiting.length > 0) {
      const turn = waiting;
      waiting = [];
      try {
        await perform(turn.map(({ member }) => member));
        for (const { done } of turn) done();
      } catch (error) {
        for (const { failed } of turn) failed(error);
      }
    }
    draining = null;
  }

  return {
    async join(member) {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      waiting.push({ member, done: resolve, failed: reject });
      draining ??= drain();
      return promise;
    },
    async idle() {
      await draining;
    },
    get busy() {
      return draining !== null;
    },
  };
}
