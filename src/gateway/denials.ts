import type { GatewayRecord } from "../protocol/gateway.ts";

type DeniedRecord = Extract<GatewayRecord, { kind: "denied" }>;
/** `reason` is one of few, fixed words; `detail` a sentence. */
export type Denial = Pick<DeniedRecord, "lane" | "reason" | "detail">;

/** How long those alike are counted before they become one record. */
const WINDOW_MS = 10_000;
/** Different ones within a window; further ones are counted without their details. */
const MOST = 20;
const DETAIL_CHARACTERS = 300;

/**
 * Makes what is refused into records: the first of a kind at once, those alike that follow it within some seconds one
 * together. However a run asks, its journal grows by so many lines a window.
 */
export function createDenials(append: (record: Denial & { readonly count: number }) => void) {
  const waiting = new Map<string, Denial & { count: number }>();
  const state = { timer: null as Timer | null };

  function flush(): void {
    if (state.timer !== null) clearTimeout(state.timer);
    state.timer = null;
    for (const denial of waiting.values()) if (denial.count > 0) append(denial);
    waiting.clear();
  }

  return {
    deny(given: Denial): void {
      // Of names that a run chose: people read them in a terminal.
      const detail = given.detail.slice(0, DETAIL_CHARACTERS).replaceAll(/\p{Cc}/gu, "?");
      const crowded = waiting.size >= MOST;
      const exact = JSON.stringify([given.lane, given.reason, detail]);
      const key = crowded && !waiting.has(exact) ? JSON.stringify([given.lane, given.reason]) : exact;
      const known = waiting.get(key);
      if (known !== undefined) {
        known.count += 1;
        return;
      }
      const denial = { lane: given.lane, reason: given.reason, detail: crowded ? "several" : detail };
      if (!crowded) append({ ...denial, count: 1 });
      waiting.set(key, { ...denial, count: crowded ? 1 : 0 });
      state.timer ??= setTimeout(flush, WINDOW_MS);
    },
    /** What was counted and not told yet. */
    flush,
  };
}
