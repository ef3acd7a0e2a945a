import type { Config } from "../config/schema.ts";
import { createDialer, type Dialer } from "../net/dial.ts";
import { createOwnAddresses } from "../net/own.ts";
import { createAddressPolicy } from "../net/policy.ts";
import { createResolver } from "../net/resolve.ts";
import { parseTarget, vet, type Vetting } from "../net/target.ts";
import type { Post } from "./attempt.ts";

export interface PosterParts {
  readonly dialer: Pick<Dialer, "post">;
  readonly vetting: Vetting;
  /** Whether an endpoint may be http:, read anew for each attempt. */
  readonly allowHttp: () => boolean;
  readonly timeoutMs?: number;
}

const TIMEOUT_MS = 15_000;
const MAX_ANSWER_BYTES = 64 * 1024;

/** What webhooks need of the network: to judge an endpoint when it is registered, and again at every attempt. */
export interface Poster {
  /** The URL in its one spelling. Throws an AppError for one that nothing may be sent to. */
  readonly check: (url: string) => Promise<string>;
  readonly post: Post;
}

/** As the operator allows it now. */
export function openPoster(settings: () => Config["webhooks"]): Poster & { readonly close: () => void } {
  const dialer = createDialer();
  const policy = createAddressPolicy({
    allowPrivate: () => settings().allow_private,
    setting: "[webhooks] allow_private",
    isOwn: createOwnAddresses(),
  });
  const vetting = { policy, resolve: createResolver() };
  return {
    ...createPoster({ dialer, vetting, allowHttp: () => settings().allow_http }),
    close: () => dialer.close(),
  };
}

export function createPoster({ dialer, vetting, allowHttp, timeoutMs = TIMEOUT_MS }: PosterParts): Poster {
  return {
    async check(url) {
      const target = parseTarget(url, { allowHttp: allowHttp() });
      await vet(target, vetting);
      return target.href;
    },

    async post({ url, headers, body, attempts, signal }) {
      const target = parseTarget(url, { allowHttp: allowHttp() });
      const addresses = await vet(target, vetting);
      // One that does not answer is followed by the next.
      const address = addresses[(attempts - 1) % addresses.length] ?? addresses[0];
      return dialer.post(target, address, {
        headers,
        body,
        timeoutMs,
        maxAnswerBytes: MAX_ANSWER_BYTES,
        signal,
      });
    },
  };
}
