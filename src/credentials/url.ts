import { AppError } from "../errors.ts";
import type { AddressPolicy } from "../net/policy.ts";
import { innermost, kindOf, parseAddress } from "../net/ranges.ts";
import type { Resolve } from "../net/resolve.ts";
import { parseTarget, vet } from "../net/target.ts";

export interface UrlChecks {
  /** The providers': what the operator allows of private networks and of this host. */
  readonly policy: AddressPolicy;
  readonly resolve: Resolve;
}

/**
 * A server's URL that a credential is for, in its one spelling. The gateway vets where it leads at every connection; here
 * it is for whoever makes the credential to hear at once. Plain http only to where the operator allows private servers.
 */
export function createUrlCheck({ policy, resolve }: UrlChecks): (url: string) => Promise<string> {
  return async (url) => {
    const target = parseTarget(url, { allowHttp: true });
    if (/[?#]/.test(target.href)) throw new AppError("invalid", "The URL must not hold a query.");
    const addresses = await vet(target, { policy, resolve });
    const isPublic = (text: string) => {
      const address = parseAddress(text);
      return address === null || kindOf(innermost(address)) === "public";
    };
    if (!target.secure && addresses.some(isPublic)) {
      throw new AppError("invalid", "The URL must start with https://, since it leads out of this network.");
    }
    return target.href;
  };
}
