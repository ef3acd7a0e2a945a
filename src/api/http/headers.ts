import type { CountedBy, RequestContext } from "./context.ts";

/** Browsers then never ask in the clear again. Not of the names below ours, which may be others'. */
const HSTS = `max-age=${365 * 24 * 3600}`;

/** What every answer says, whoever made it. */
export function addHeaders({ headers }: Response, { id, rate, secure }: RequestContext): void {
  headers.set("x-request-id", id);
  setCautious(headers);
  if (secure) headers.set("strict-transport-security", HSTS);
  if (rate !== null) addRate(headers, rate);
}

/** That nothing is made of the answer but what it says it is, and that it is not kept. */
export function setCautious(headers: Headers): void {
  headers.set("x-content-type-options", "nosniff");
  // Whatever it is, it is one caller's: an answer that may be kept says so itself.
  if (!headers.has("cache-control")) headers.set("cache-control", "no-store");
}

/**
 * As the IETF's draft-ietf-httpapi-ratelimit-headers has them since its revision 8: unlike the X-RateLimit-* and the
 * RateLimit-Limit of before, they name the limit that they tell of. Clients that know neither go by Retry-After.
 */
function addRate(headers: Headers, { name, taken }: CountedBy): void {
  const { rate, remaining, resetS } = taken;
  headers.set("ratelimit-policy", `"${name}";q=${rate.calls};w=${rate.windowS}`);
  headers.set("ratelimit", `"${name}";r=${remaining};t=${resetS}`);
}
