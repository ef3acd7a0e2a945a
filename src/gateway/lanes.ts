import type { Log } from "../log.ts";
import type { Dialer } from "../net/dial.ts";
import type { Vetting } from "../net/target.ts";
import type { Prices } from "../prices/prices.ts";
import type { Secrets } from "../secrets.ts";
import { createCall } from "./call.ts";
import { createGitLane } from "./git/lane.ts";
import type { Lanes } from "./listener.ts";
import { createLlmLane } from "./llm/lane.ts";

export interface LaneParts {
  /** For what lanes send, to the addresses that `vetting` lets pass: where credentials may lead. */
  readonly dialer: Dialer;
  readonly vetting: Vetting;
  /** Derived from the gateway's own key: what lanes keep in a journal is sealed under it. */
  readonly secrets: Secrets;
  readonly prices: Prices;
  readonly log: Log;
}

export function openLanes({ dialer, vetting, secrets, prices, log }: LaneParts): Lanes {
  return {
    llm: createLlmLane({ dialer, vetting, prices, log }),
    git: createGitLane({ call: createCall({ dialer, vetting }), secrets, log }),
  };
}
