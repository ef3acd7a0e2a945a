import type { Origin } from "../audit/event.ts";
import type { Ledger } from "../audit/ledger.ts";
import type { Database } from "../db/open.ts";
import type { WebhookId, WorkspaceId } from "../ids.ts";
import type { Log } from "../log.ts";
import type { Secrets } from "../secrets.ts";
import type { Post } from "./attempt.ts";
import { systemClock, type Clock } from "./clock.ts";
import { createDispatcher } from "./dispatcher.ts";
import { createHistory } from "./history.ts";
import type { DeliveryMeter } from "./meter.ts";
import { sweep } from "./sweep.ts";
import { createWebhooks } from "./webhooks.ts";

export interface WebhooksStart {
  readonly db: Database;
  readonly ledger: Ledger;
  readonly secrets: Secrets;
  readonly log: Log;
  readonly post: Post;
  readonly check: (url: string) => Promise<string>;
  readonly retentionDays: () => number;
  readonly meter?: DeliveryMeter;
  readonly clock?: Clock;
  /** In [0, 1). */
  readonly random?: () => number;
}

const SWEEP_EVERY_MS = 10 * 60_000;
/** An attempt that has begun ends within fifteen seconds. */
const STOP_PATIENCE_MS = 16_000;

export type StartedWebhooks = ReturnType<typeof startWebhooks>;

/** Webhooks and their deliveries, from where the last process left them once `resume` was called. */
export function startWebhooks(parts: WebhooksStart) {
  const { db, ledger, secrets, log, post, check, retentionDays, clock = systemClock, random } = parts;
  const dispatcher = createDispatcher({
    db,
    log,
    clock,
    post,
    giveUp: (id, reason) => webhooks.giveUp(id, reason),
    ...(parts.meter === undefined ? {} : { meter: parts.meter }),
    ...(random === undefined ? {} : { random }),
  });
  const webhooks = createWebhooks({ db, ledger, secrets, clock, dispatcher, check });
  const history = createHistory({
    db,
    clock,
    dispatcher,
    record: async (webhook, origin, data) => webhooks.recordReplay(webhook, origin, data),
  });
  const sweeping = { current: Promise.resolve(), timer: null as Timer | null };

  const sweepNow = () => {
    sweeping.current = sweeping.current
      .then(() => sweep({ db, clock, retentionDays }))
      .catch((error: unknown) => log.error("old webhook deliveries were not removed", { cause: error }));
    return sweeping.current;
  };

  // A call that never heard what became of it may have made or changed one.
  db.onBack(() => {
    webhooks
      .resume()
      .catch((error: unknown) => log.error("webhooks were not looked at anew", { cause: error }));
  });

  const unsubscribe = ledger.onPublished((events) => {
    for (const { chain, createdAt } of events) {
      if (chain !== "appliance" && dispatcher.serves(chain)) dispatcher.publish(chain, createdAt);
    }
  });

  return {
    ...webhooks,
    ...history,
    async remove(workspaceId: WorkspaceId, id: WebhookId, origin: Origin): Promise<void> {
      await webhooks.remove(workspaceId, id, origin);
      void sweepNow();
    },

    stats: dispatcher.stats,
    sweep: sweepNow,

    /** Goes on with what is in the database. */
    async resume(): Promise<void> {
      await webhooks.resume();
      sweeping.timer = setInterval(() => void sweepNow(), SWEEP_EVERY_MS);
      void sweepNow();
    },

    /** What is under way may end; what has not by then is left to its lease. */
    async stop(patienceMs = STOP_PATIENCE_MS): Promise<void> {
      unsubscribe();
      if (sweeping.timer !== null) clearInterval(sweeping.timer);
      await dispatcher.stop(patienceMs);
      await sweeping.current;
    },
  };
}
