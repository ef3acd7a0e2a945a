import { AppError } from "../errors.ts";
import type { Dialer, RequestOptions } from "../net/dial.ts";
import { innermost, kindOf, parseAddress } from "../net/ranges.ts";
import { parseTarget, vet, type Vetting } from "../net/target.ts";

/**
 * Calls a provider's URL: looked up and judged anew each time, and dialled at the address that was judged. The answer is
 * as the server gives it, no redirect followed. Throws an AppError that is fit for the run to see.
 */
export type Call = (url: string, options: RequestOptions) => Promise<Response>;

export interface CallParts {
  readonly dialer: Pick<Dialer, "request">;
  /** By `[providers] allow_private`. */
  readonly vetting: Vetting;
}

export function createCall({ dialer, vetting }: CallParts): Call {
  return async (url, options) => {
    const target = parseTarget(url, { allowHttp: true });
    const [address] = await vet(target, vetting);
    const parsed = parseAddress(address);
    if (!target.secure && (parsed === null || kindOf(innermost(parsed)) === "public")) {
      throw new AppError("invalid", `${target.host} is reached by https:// only, being no private address.`);
    }
    return dialer.request(target, address, options);
  };
}
