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
