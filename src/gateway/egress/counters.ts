import type { Grant } from "../grant.ts";

export type Counters = ReturnType<typeof createCounters>;

/** What all connections of one run together carry, and how many there are. */
export function createCounters({ spec, journal }: Pick<Grant, "spec" | "journal">) {
  const state = { open: 0, untold: 0 };

  function isBeyond(more: number): boolean {
    const most = spec().egress?.max_bytes ?? null;
    return most !== null && journal.egressBytes() + state.untold + more > most;
  }

  return {
    open: () => state.open,
    opened(): void {
      state.open += 1;
    },
    closed(): void {
      state.open -= 1;
    },
    /** Whether not a byte more may be carried. */
    isSpent: () => isBeyond(1),
    /** Counts bytes before they are sent on; false when there are too many, and none of them may be. */
    carry(bytes: number): boolean {
      if (isBeyond(bytes)) return false;
      state.untold += bytes;
      return true;
    },
    /** So many of them have a record now. */
    told(bytes: number): void {
      state.untold -= bytes;
    },
  };
}
