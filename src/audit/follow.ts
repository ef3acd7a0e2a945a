import type { Feed, Inbox } from "./feed.ts";
import type { EventFilter, EventReader, EventRow } from "./reader.ts";

/** Where a follower begins: with what comes, after a time, or after an event that the log does not have. */
export type Start =
  | { readonly kind: "now" }
  | { readonly kind: "after"; readonly time: number }
  | { readonly kind: "unknown event" };

export type Step =
  /** From here on, or from the start on, nothing is missed. */
  | { readonly kind: "connected" }
  | { readonly kind: "events"; readonly events: readonly Uint8Array[] }
  | { readonly kind: "idle" }
  /** What was between the start and `since` is not in the log any more; what follows is after it. */
  | { readonly kind: "gap"; readonly since: number }
  /** The last: the follower was too slow, and can go on from `since`. */
  | { readonly kind: "lagged"; readonly since: number };

export interface FollowParts {
  readonly reader: Pick<EventReader, "next">;
  readonly feed: Pick<Feed, "open">;
  readonly encode: (row: EventRow) => Uint8Array;
  /** How long it is silent before it says so. */
  readonly idleMs: number;
}

/** Read from the log at once: a body can have some 30 KiB. */
const SLICE = 50;
const CHUNK_BYTES = 64 * 1024;

/**
 * The events of a filter in order, each once: first what the log has, at the follower's own pace, then what comes. Ends
 * by itself when it lags, when the signal is aborted and when the feed is closed.
 */
export async function* follow(
  { reader, feed, encode, idleMs }: FollowParts,
  filter: EventFilter,
  start: Start,
  signal: AbortSignal,
): AsyncGenerator<Step, void> {
  const opened: { inbox: Inbox | null } = { inbox: null };
  const open = (): void => void (opened.inbox = feed.open(filter));
  const close = (): void => opened.inbox?.close();
  signal.addEventListener("abort", close);
  try {
    if (start.kind === "now") open();
    yield { kind: "connected" };
    const sent = start.kind === "now" ? 0 : yield* stored(start.kind === "after" ? start.time : null);
    if (opened.inbox !== null) yield* live(opened.inbox, sent);
  } finally {
    signal.removeEventListener("abort", close);
    close();
  }

  /** What the log has, until the inbox is open and nothing is missed by it. Returns up to where all has been sent. */
  async function* stored(after: number | null): AsyncGenerator<Step, number> {
    let sent = after === null ? null : Math.max(after, filter.lockedSince ?? after);
    while (!signal.aborted) {
      const { rows, cutAt } = await reader.next(filter, sent ?? 0, SLICE);
      if (sent === null || (cutAt !== null && cutAt > sent)) {
        sent = rows[0] === undefined ? (cutAt ?? 0) : rows[0].createdAt - 1;
        yield { kind: "gap", since: sent };
      }
      if (rows.length > 0) yield { kind: "events", events: rows.map(encode) };
      sent = rows.at(-1)?.createdAt ?? sent;
      if (rows.length === SLICE) continue;
      if (opened.inbox !== null) return sent;
      // What is published from now on comes there; one more look finds what came until now.
      open();
    }
    return sent ?? 0;
  }

  async function* live(inbox: Inbox, sent: number): AsyncGenerator<Step, void> {
    for (;;) {
      const taken = await inbox.take(idleMs, CHUNK_BYTES);
      if (taken.kind === "closed") return;
      if (taken.kind === "overflow") {
        yield { kind: "lagged", since: Math.max(taken.since, sent) };
        return;
      }
      if (taken.kind === "nothing") {
        yield { kind: "idle" };
        continue;
      }
      // The log had some of them already.
      const fresh = taken.items.filter(({ createdAt }) => createdAt > sent);
      if (fresh.length > 0) yield { kind: "events", events: fresh.map(({ bytes }) => bytes) };
    }
  }
}
