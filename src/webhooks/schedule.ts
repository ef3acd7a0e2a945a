const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

/** How long after one attempt failed the next is made; the first is made at once. Some 76 hours in all. */
const DELAYS_MS = [
  5 * SECOND,
  5 * MINUTE,
  30 * MINUTE,
  2 * HOUR,
  5 * HOUR,
  10 * HOUR,
  14 * HOUR,
  20 * HOUR,
  24 * HOUR,
];
export const MAX_ATTEMPTS = DELAYS_MS.length + 1;

/** Either way, so that what failed together does not come again together. */
const JITTER = 0.1;
/** The longest that an endpoint may ask to be left alone. */
const MAX_RETRY_AFTER_MS = 24 * HOUR;

/**
 * Milliseconds until the next attempt after `attempts` that failed, not before what the endpoint asked for; null when
 * that was the last. `random` is in [0, 1).
 */
export function nextDelay(attempts: number, retryAfterMs: number, random: () => number): number | null {
  const delay = DELAYS_MS[attempts - 1];
  if (delay === undefined) return null;
  return Math.max(Math.round(delay * (1 - JITTER + 2 * JITTER * random())), retryAfterMs);
}

/** Milliseconds that a Retry-After header (seconds, or a date) asks for, within bounds; 0 when it asks for none. */
export function parseRetryAfter(header: string | null, now: number): number {
  if (header === null) return 0;
  const wanted = /^\d{1,9}$/.test(header.trim()) ? Number(header) * SECOND : Date.parse(header) - now;
  return Number.isNaN(wanted) ? 0 : Math.min(Math.max(0, wanted), MAX_RETRY_AFTER_MS);
}
