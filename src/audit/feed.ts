import { bodyWithoutSeq, type Chain, type StoredEvent } from "./event.ts";
import type { Ledger } from "./ledger.ts";
import type { EventFilter } from "./reader.ts";

/** An event as it goes to its followers: made once for all of them, or twice where some get it without its number. */
export interface Item {
  readonly createdAt: number;
  readonly bytes: Uint8Array;
}

/** What a look into an inbox finds. */
export type Taken =
  | { readonly kind: "items"; readonly items: readonly Item[] }
  /** Nothing came for the time that one would wait. */
  | { readonly kind: "nothing" }
  /** More came than it holds. All that was after `since` is lost to it, and it takes no more. */
  | { readonly kind: "overflow"; readonly since: number }
  | { readonly kind: "closed" };

export interface Inbox {
  /** Waits at most `waitMs`. What it takes at once has about `maxBytes`. */
  take(waitMs: number, maxBytes: number): Promise<Taken>;
  close(): void;
}

export interface FeedParts {
  readonly ledger: Pick<Ledger, "onPublished">;
  readonly encode: (event: Pick<StoredEvent, "id" | "body">) => Uint8Array;
  /** What one inbox holds at most. The items are shared: many slow followers of a chain hold hardly more than one. */
  readonly maxBytes: number;
}

export type Feed = ReturnType<typeof createFeed>;

/** Hands what the ledger publishes to those who follow it. */
export function createFeed({ ledger, encode, maxBytes }: FeedParts) {
  const inboxes = new Map<Chain, Set<ReturnType<typeof createInbox>>>();

  const itemOf = ({ createdAt, id }: StoredEvent, body: string): Item => ({
    createdAt,
    bytes: encode({ id, body }),
  });

  const unsubscribe = ledger.onPublished((events) => {
    for (const event of events) {
      let whole: Item | undefined;
      let withoutSeq: Item | undefined;
      for (const inbox of inboxes.get(event.chain) ?? []) {
        if (!inbox.wants(event)) continue;
        inbox.put(
          inbox.isLocked
            ? (withoutSeq ??= itemOf(event, bodyWithoutSeq(event.body)))
            : (whole ??= itemOf(event, event.body)),
        );
      }
    }
  });

  return {
    /** Gets every matching event that is published from now on. */
    open(filter: EventFilter): Inbox {
      const siblings = inboxes.get(filter.chain) ?? new Set();
      const inbox = createInbox(filter, maxBytes, () => {
        siblings.delete(inbox);
        if (siblings.size === 0) inboxes.delete(filter.chain);
      });
      inboxes.set(filter.chain, siblings.add(inbox));
      return inbox;
    },

    close: unsubscribe,
  };
}

function createInbox(filter: EventFilter, maxBytes: number, closed: () => void) {
  const types = filter.types === null ? null : new Set(filter.types);
  let items: Item[] = [];
  let bytes = 0;
  let overflow: number | null = null;
  let open = true;
  let wake = (): void => {};

  function state(chunkBytes: number): Taken | null {
    if (!open) return { kind: "closed" };
    if (overflow !== null) return { kind: "overflow", since: overflow };
    if (items.length === 0) return null;
    let taken = 0;
    let count = 0;
    while (count < items.length && (count === 0 || taken < chunkBytes))
      taken += items[count++]?.bytes.length ?? 0;
    bytes -= taken;
    return { kind: "items", items: items.splice(0, count) };
  }

  return {
    isLocked: filter.lockedSince !== null,

    wants: ({ namespace, type }: Pick<StoredEvent, "namespace" | "type">) =>
      (filter.namespace === null || filter.namespace === namespace) && (types === null || types.has(type)),

    put(item: Item): void {
      const [oldest] = items;
      if (overflow !== null) return;
      if (oldest !== undefined && bytes + item.bytes.length > maxBytes) {
        overflow = oldest.createdAt - 1;
        items = [];
      } else {
        items.push(item);
        bytes += item.bytes.length;
      }
      wake();
    },

    async take(waitMs: number, chunkBytes: number): Promise<Taken> {
      const found = state(chunkBytes);
      if (found !== null) return found;
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, waitMs);
      wake = resolve;
      await promise;
      clearTimeout(timer);
      return state(chunkBytes) ?? { kind: "nothing" };
    },

    close(): void {
      if (!open) return;
      open = false;
      items = [];
      closed();
      wake();
    },
  };
}
