import type { WebhookId } from "../ids.ts";
import type { LastDelivery, Recorded } from "./deliveries.ts";

/** What became of attempts, from when they end until the database has it. */
export function createResults() {
  let finished: Recorded[] = [];
  let last = new Map<WebhookId, LastDelivery>();
  let waiting: (() => void)[] = [];

  return {
    add: (result: Recorded) => void finished.push(result),
    /** What its webhook is shown with from now on. */
    show: (delivery: LastDelivery) => void last.set(delivery.webhookId, delivery),
    /** Somebody who waits is told by a transaction, though nothing may be in it for him. */
    isEmpty: () => finished.length === 0 && last.size === 0 && waiting.length === 0,
    /** Resolves when the database has what is here now. */
    stored: () => new Promise<void>((resolve) => void waiting.push(resolve)),

    /** All there is, for one transaction; `done` or `undo` tells how that went. */
    take() {
      const taken = { finished, last, waiting };
      finished = [];
      last = new Map();
      waiting = [];
      return {
        finished: taken.finished,
        shown: [...taken.last.values()],
        done(): void {
          for (const resolve of taken.waiting) resolve();
        },
        undo(): void {
          finished = [...taken.finished, ...finished];
          last = new Map([...taken.last, ...last]);
          waiting = [...taken.waiting, ...waiting];
        },
      };
    },
  };
}
