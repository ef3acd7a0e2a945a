/** Time as the webhooks see it: a retry is hours away, and a test has none to spare. */
export interface Clock {
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** Calls back once, so many milliseconds from now. Returns how to call that off. */
  readonly after: (ms: number, call: () => void) => () => void;
}

/** setTimeout takes a longer time for none at all. */
const LONGEST_MS = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: Date.now,
  after(ms, call) {
    const timer = setTimeout(call, Math.min(ms, LONGEST_MS));
    return () => clearTimeout(timer);
  },
};
