/** So many calls in a window of so many seconds: at once, and then again as evenly as the window allows. */
export interface Rate {
  readonly calls: number;
  readonly windowS: number;
}

/** What a bucket says of one call. */
export interface Taken {
  readonly rate: Rate;
  readonly allowed: boolean;
  /** Calls that would be allowed now. */
  readonly remaining: number;
  /** Seconds until all calls of the rate are there again. */
  readonly resetS: number;
  /** Seconds until the next call is allowed; 0 when one is. */
  readonly retryAfterS: number;
}

const WINDOW_S: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600 };

/** Of a setting such as "300/m"; null for "0", which is no limit. */
export function rateOf(text: string): Rate | null {
  const [calls = "0", unit = "s"] = text.split("/");
  return calls === "0" ? null : { calls: Number(calls), windowS: WINDOW_S[unit] ?? 1 };
}

/** Buckets kept at most, each about 100 bytes. */
const MOST = 50_000;
/** How many are looked at to find one to let go of. */
const LOOKS = 8;

/** Of a call: a million sums round off less. */
const ROUNDING = 0.01;

interface BucketsParts {
  /** null for no limit. Read at each call, so that it may change. */
  readonly rate: () => Rate | null;
  /** Milliseconds of a clock that never goes back. */
  readonly now?: () => number;
  readonly most?: number;
}

/**
 * Token buckets, each kept as one number: the time at which it is full again (known as GCRA). So one call costs one
 * look-up, nothing has to be refilled, and a full bucket is the same as none.
 */
export function createBuckets({ rate, now = () => performance.now(), most = MOST }: BucketsParts) {
  const fullAt = new Map<string, number>();

  /** A full one if there is one near; else one that was not used lately, so that whoever has many names gains a bucket, no more. */
  function makeRoom(time: number): void {
    for (let looks = 0; fullAt.size >= most; looks++) {
      const [name = "", at = 0] = fullAt.entries().next().value ?? [];
      fullAt.delete(name);
      if (at > time && looks < LOOKS) fullAt.set(name, at);
    }
  }

  return {
    size: () => fullAt.size,

    /** Counts a call of `name`; null when there is no limit. */
    take(name: string): Taken | null {
      const limit = rate();
      if (limit === null) return null;
      const time = now();
      const windowMs = limit.windowS * 1000;
      const eachMs = windowMs / limit.calls;
      const before = fullAt.get(name);
      // A rate that was made smaller must not keep anybody out for longer than its own window.
      const base = Math.min(Math.max(before ?? time, time), time + windowMs);
      const after = base + eachMs;
      const allowed = after - time <= windowMs + eachMs * ROUNDING;
      if (allowed) {
        if (before === undefined) makeRoom(time);
        fullAt.set(name, after);
      }
      const filled = allowed ? after : base;
      return {
        rate: limit,
        allowed,
        remaining: Math.max(0, Math.floor((time + windowMs - filled) / eachMs + ROUNDING)),
        resetS: Math.ceil(seconds(filled - time)),
        retryAfterS: allowed ? 0 : seconds(after - time - windowMs),
      };
    },
  };
}

/** To the millisecond: a sum of times that comes to 720.0000000001 s is not told as 721. */
function seconds(ms: number): number {
  return Math.round(ms) / 1000;
}
