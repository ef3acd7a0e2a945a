/** Which of the networks are whose to take: each in its turn, and none again before it has rested. */
export interface Indexes {
  /** The next free one; null when all are taken or resting. */
  take(): number | null;
  /** One that is in use already, by a run from before this process. */
  claim(index: number): void;
  release(index: number): void;
}

/** What is kept over a restart. Of those in use the host itself tells. */
export interface Resting {
  readonly next: number;
  /** When each may be taken again, in milliseconds since 1970. */
  readonly until: readonly (readonly [index: number, at: number])[];
}

export interface IndexesOptions {
  readonly count: number;
  /** How long one that was released rests: what is still under way to its last run must not meet the next one. */
  readonly restMs: number;
  readonly now: () => number;
  readonly store: { load(): Resting | null; save(resting: Resting): void };
}

export function createIndexes({ count, restMs, now, store }: IndexesOptions): Indexes {
  const before = store.load();
  const isIndex = (index: number) => Number.isInteger(index) && index >= 0 && index < count;
  const used = new Set<number>();
  const until = new Map((before?.until ?? []).filter(([index]) => isIndex(index)));
  const turn = { next: before !== null && isIndex(before.next) ? before.next : 0 };

  function save(): void {
    for (const [index, at] of until) if (at <= now()) until.delete(index);
    store.save({ next: turn.next, until: [...until] });
  }

  return {
    take() {
      for (let step = 0; step < count; step++) {
        const index = (turn.next + step) % count;
        // A clock that was set back must not make one rest for longer than it should.
        const at = until.get(index);
        const rests = at !== undefined && at > now() && at <= now() + restMs;
        if (used.has(index) || rests) continue;
        turn.next = (index + 1) % count;
        // Where that fails, it is nobody's.
        save();
        used.add(index);
        return index;
      }
      return null;
    },
    claim(index) {
      used.add(index);
    },
    release(index) {
      if (!used.delete(index)) return;
      until.set(index, now() + restMs);
      save();
    },
  };
}
