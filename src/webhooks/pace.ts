/** Attempts under way at one endpoint, at most: it begins with one and earns the others. */
export const MAX_WINDOW = 32;
/** So many failures in a row, and an endpoint is left alone but for a probe now and then. */
const TRIP_AFTER = 5;
const FIRST_PAUSE_MS = 30_000;
const LONGEST_PAUSE_MS = 10 * 60_000;
/** An endpoint that takes longer on average is slow: all of those share a part of the sockets. */
const SLOW_MS = 1000;
/** How much the newest answer weighs in that average. */
const WEIGHT = 0.2;

/**
 * How fast one endpoint is sent to: a window that grows with its successes and halves with its failures, and a circuit
 * breaker. Times are milliseconds; `random` is in [0, 1).
 */
export function createPace(random: () => number = Math.random) {
  let window = 1;
  let failures = 0;
  let trips = 0;
  let closedUntil = 0;
  // Until it has answered, nobody knows.
  let averageMs = Number.POSITIVE_INFINITY;

  function pause(until: number): void {
    closedUntil = Math.max(closedUntil, until);
  }

  function reset(): void {
    failures = 0;
    trips = 0;
    closedUntil = 0;
  }

  function measure(tookMs: number): void {
    averageMs = Number.isFinite(averageMs) ? averageMs + WEIGHT * (tookMs - averageMs) : tookMs;
  }

  return {
    /** How many attempts may be begun, with so many under way. After a trip, a lone probe. */
    room(inFlight: number, now: number): number {
      if (now < closedUntil) return 0;
      return Math.max(0, (trips > 0 ? 1 : window) - inFlight);
    },

    /** Nothing may be begun before this. */
    closedUntil: () => closedUntil,

    /** By hand: a pause is over now, for a probe at least. */
    open(): void {
      closedUntil = 0;
    },

    isSlow: () => averageMs > SLOW_MS,

    succeeded(tookMs: number): void {
      measure(tookMs);
      reset();
      window = Math.min(window + 1, MAX_WINDOW);
    },

    /** `retryAfterMs`: what the endpoint asked for itself. */
    failed(tookMs: number, now: number, retryAfterMs: number): void {
      measure(tookMs);
      pause(now + Math.min(retryAfterMs, LONGEST_PAUSE_MS));
      // One of several that were under way when it tripped tells nothing new.
      if (trips > 0 && now < closedUntil) return;
      window = Math.max(1, Math.floor(window / 2));
      failures++;
      if (trips === 0 && failures < TRIP_AFTER) return;
      const pauseMs = Math.min(FIRST_PAUSE_MS * 2 ** trips, LONGEST_PAUSE_MS);
      trips++;
      pause(now + Math.round(pauseMs * (0.9 + 0.2 * random())));
    },
  };
}
