import type { Config } from "../../config/schema.ts";
import { AppError } from "../../errors.ts";
import type { KeyId } from "../../ids.ts";
import { sourceOf } from "../../net/source.ts";
import { createBuckets, rateOf, type Rate, type Taken } from "./buckets.ts";
import type { RequestContext } from "./context.ts";

/** Calls without a valid key: what a client with an old key makes while somebody mends it, and then one a second. */
const FAILURES: Rate = { calls: 60, windowS: 60 };

/** For load balancers, which come from one address with everybody's calls. */
const NEVER_REFUSED: ReadonlySet<string> = new Set(["/healthz", "/readyz"]);

export interface LimitsParts {
  readonly rates: () => Config["rate"];
  /** Milliseconds; for tests. */
  readonly now?: () => number;
}

export type Limits = ReturnType<typeof createLimits>;

/** How often who may call. The admin socket's calls have no address, and no limit. */
export function createLimits({ rates, now }: LimitsParts) {
  const clock = now === undefined ? {} : { now };
  const addresses = createBuckets({ rate: latest(() => rates().per_address), ...clock });
  const keys = createBuckets({ rate: latest(() => rates().per_key), ...clock });
  const failures = createBuckets({ rate: () => FAILURES, ...clock });

  return {
    /** For every request, before anything of it is looked at. Throws 429. */
    admit(context: RequestContext, url: string): void {
      if (context.address === null) return;
      const taken = addresses.take(sourceOf(context.address).source);
      if (taken === null || taken.allowed || NEVER_REFUSED.has(URL.parse(url)?.pathname ?? "")) return;
      throw refused(context, "address", taken, "This address calls too often");
    },

    /** For a request whose key is valid. Throws 429. */
    authenticated(context: RequestContext, key: KeyId): void {
      if (context.address === null) return;
      const taken = keys.take(key);
      if (taken === null) return;
      if (!taken.allowed) throw refused(context, "key", taken, "This key is used too often");
      context.rate = { name: "key", taken };
    },

    /**
     * For a request whose key is not: what to answer with, if not 429. Valid keys of the same address go on, for it may
     * be many people's; and nobody is kept waiting, for that would keep sockets open for who wants to use them up.
     */
    failed(context: RequestContext, error: AppError): AppError {
      if (context.address === null) return error;
      const taken = failures.take(sourceOf(context.address).source);
      if (taken === null || taken.allowed) return error;
      return refused(context, "failures", taken, "Too many calls without a valid key came from this address");
    },
  };
}

function refused(
  context: RequestContext,
  name: "address" | "key" | "failures",
  taken: Taken,
  why: string,
): AppError {
  context.rate = { name, taken };
  const retryAfterS = Math.max(1, Math.ceil(taken.retryAfterS));
  return new AppError("busy", `${why}; try again in ${retryAfterS} s.`, { retryAfterS });
}

/** Reads a setting only when it changed. */
function latest(setting: () => string): () => Rate | null {
  const read: { text: string | null; rate: Rate | null } = { text: null, rate: null };
  return () => {
    const text = setting();
    if (text !== read.text) Object.assign(read, { text, rate: rateOf(text) });
    return read.rate;
  };
}
