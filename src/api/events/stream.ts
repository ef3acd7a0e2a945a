import type { Chain } from "../../audit/event.ts";
import { createFeed, type FeedParts } from "../../audit/feed.ts";
import { follow, type Start } from "../../audit/follow.ts";
import type { EventFilter, EventReader } from "../../audit/reader.ts";
import type { KeyId } from "../../ids.ts";
import type { Log } from "../../log.ts";
import { eventBlock, SSE_HEADERS, stepBytes } from "../http/sse.ts";
import { createStreams } from "../http/streams.ts";

export interface EventStreamsParts {
  readonly reader: Pick<EventReader, "next">;
  readonly ledger: FeedParts["ledger"];
  readonly log: Log;
  /** For tests. */
  readonly limits?: Partial<typeof LIMITS>;
}

const LIMITS = {
  /** Proxies cut what is silent for 30 to 60 s. */
  heartbeatMs: 15_000,
  /** Waiting for one client: thousands of small events, or dozens of the largest. */
  maxBytes: 1024 * 1024,
  /** Streams at once: of one key, of one workspace, of all. */
  perKey: 32,
  perChain: 256,
  all: 1024,
};

export type EventStreams = ReturnType<typeof createEventStreams>;

/** Events as they happen, as server-sent events. */
export function createEventStreams({ reader, ledger, log, limits }: EventStreamsParts) {
  const { heartbeatMs, maxBytes, perKey, perChain, all } = { ...LIMITS, ...limits };
  const feed = createFeed({ ledger, encode: eventBlock, maxBytes });
  const source = { reader, feed, encode: eventBlock, idleMs: heartbeatMs };
  const streams = createStreams({ what: "event streams", limits: { perKey, perOwner: perChain, all }, log });

  return {
    /** The signal ends the stream; `done` settles when it has ended, whoever ended it. */
    open(keyId: KeyId | null, filter: EventFilter, start: Start, signal: AbortSignal) {
      const call = { keyId, owner: filter.chain satisfies Chain, headers: SSE_HEADERS, signal };
      return streams.open(call, async function* (over) {
        for await (const step of follow(source, filter, start, over)) yield stepBytes(step);
      });
    },

    /** Ends all of them: their clients come back to whoever answers next. */
    close(): void {
      streams.close();
      feed.close();
    },

    get size(): number {
      return streams.size;
    },
  };
}
