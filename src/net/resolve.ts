import { AppError } from "../errors.ts";

/** All addresses of a name; none when there is no such name. Throws an AppError when nobody can tell. */
export type Resolve = (name: string) => Promise<readonly string[]>;

/** What a lookup of Bun's fails with when the name has no address. */
const NO_ADDRESS = new Set(["DNS_ENOTFOUND", "DNS_ENODATA", "DNS_ENONAME"]);
const TIMEOUT_MS = 5000;

/**
 * As the host does it: /etc/hosts, then the servers of /etc/resolv.conf. By c-ares, which waits for them on the event
 * loop: libc's own would hold one of the threads that file calls need for up to 30 s, so a few names whose
 * servers never answer would stop all files.
 */
export function createResolver({ timeoutMs = TIMEOUT_MS } = {}): Resolve {
  return async (name) => {
    const deadline = Promise.withResolvers<never>();
    const timer = setTimeout(() => deadline.reject(new Error("timed out")), timeoutMs);
    try {
      const found = await Promise.race([Bun.dns.lookup(name, { backend: "c-ares" }), deadline.promise]);
      return found.map(({ address }) => address);
    } catch (error) {
      if (NO_ADDRESS.has((error as NodeJS.ErrnoException).code ?? "")) return [];
      throw new AppError("unavailable", `${name} could not be looked up: DNS did not answer.`, {
        retryAfterS: 5,
        cause: error,
      });
    } finally {
      clearTimeout(timer);
    }
  };
}

/** As `resolve`, but what a name was found to lead to is not asked again for a while. Whoever dials judges it anew each time. */
export function remembering(resolve: Resolve, forMs: number, now: () => number = Date.now): Resolve {
  const known = new Map<string, { readonly addresses: readonly string[]; readonly until: number }>();
  return async (name) => {
    const found = known.get(name);
    if (found !== undefined && found.until > now()) return found.addresses;
    const addresses = await resolve(name);
    for (const [other, { until }] of known) if (until <= now()) known.delete(other);
    if (addresses.length > 0) known.set(name, { addresses, until: now() + forMs });
    return addresses;
  };
}
