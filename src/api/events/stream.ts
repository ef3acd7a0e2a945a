import type { Chain } from "../../audit/event.ts";
import { createFeed, type FeedParts } from "../../audit/feed.ts";
import { follow, type Start } from "../../audit/follow.ts";
import type { EventFilter, EventReader } from "../../audit/reader.ts";
import { AppError } from "../../errors.ts";
import type { KeyId } from "../../ids.ts";
import type { Log } from "../../log.ts";
import { eventBlock, stepBytes } from "../http/sse.ts";

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

interface Stream {
  /** null is the operator, whose streams are not counted. */
  readonly keyId: KeyId | null;
  readonly chain: Chain;
  readonly cut: () => void;
}

export type EventStreams = ReturnType<typeof createEventStreams>;

/** Events as they happen, as server-sent events. */
export function createEventStreams({ reader, ledger, log, limits }: EventStreamsParts) {
  const { heartbeatMs, maxBytes, perKey, perChain, all } = { ...LIMITS, ...limits };
  const feed = createFeed({ ledger, encode: eventBlock, maxBytes });
  const source = { reader, feed, encode: eventBlock, idleMs: heartbeatMs };
  const open = new Set<Stream>();
  let closed = false;

  function checkRoom(keyId: KeyId, chain: Chain): void {
    const counted = [...open].filter((stream) => stream.keyId !== null);
    const rooms = [
      { whose: "this key", most: perKey, taken: counted.filter((stream) => stream.keyId === keyId).length },
      {
        whose: "the workspace",
        most: perChain,
        taken: counted.filter((stream) => stream.chain === chain).length,
      },
      { whose: "the appliance", most: all, taken: counted.length },
    ];
    const full = rooms.find(({ most, taken }) => taken >= most);
    if (full === undefined) return;
    const detail = `All ${full.most} event streams of ${full.whose} are in use; close one, or try again soon.`;
    throw new AppError("busy", detail, { retryAfterS: 10 });
  }

  return {
    /** The signal ends the stream; `done` settles when it has ended, whoever ended it. */
    open(keyId: KeyId | null, filter: EventFilter, start: Start, signal: AbortSignal) {
      if (closed) {
        throw new AppError("unavailable", "The appliance is stopping; try again soon.", { retryAfterS: 5 });
      }
      if (keyId !== null) checkRoom(keyId, filter.chain);
      const over = new AbortController();
      const steps = follow(source, filter, start, over.signal);
      const done = Promise.withResolvers<void>();
      let controller: ReadableStreamDefaultController<Uint8Array> | null = null;
      /** False when it had ended before. */
      const end = (): boolean => {
        if (!open.delete(stream)) return false;
        signal.removeEventListener("abort", cut);
        over.abort();
        done.resolve();
        return true;
      };
      const cut = (): void => {
        if (end()) controller?.close();
      };
      const stream: Stream = { keyId, chain: filter.chain, cut };
      open.add(stream);
      signal.addEventListener("abort", cut);
      const body = new ReadableStream<Uint8Array>(
        {
          start(its) {
            controller = its;
            if (signal.aborted) cut();
          },
          async pull(its) {
            try {
              const { value } = await steps.next();
              // It may have been cut while this waited.
              if (!open.has(stream)) return;
              if (value === undefined) cut();
              else its.enqueue(stepBytes(value));
            } catch (error) {
              log.error("an event stream broke off", { cause: error });
              if (end()) its.error(error);
            }
          },
          cancel: () => void end(),
        },
        { highWaterMark: 0 },
      );
      const headers = {
        "content-type": "text/event-stream",
        "cache-control": "no-store",
        // nginx would collect the answer.
        "x-accel-buffering": "no",
      };
      return { response: new Response(body, { headers }), done: done.promise };
    },

    /** Ends all of them: their clients come back to whoever answers next. */
    close(): void {
      closed = true;
      for (const { cut } of open) cut();
      feed.close();
    },

    get size(): number {
      return open.size;
    },
  };
}
