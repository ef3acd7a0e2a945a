import { decodeEntry, type Entry, type Row } from "./manifest.ts";

/** What comes next is not loaded yet. */
export const LATER = Symbol("later");

/** An entry of a walk, as far as it takes to find it in a manifest. */
export interface Position {
  readonly depth: number;
  readonly name: Uint8Array;
  readonly kind: string;
}

export const entryOf = (row: Row): Entry => (typeof row === "string" ? decodeEntry(row) : row);

/**
 * A manifest, gone through in step with a walk: both are in the same order, so what one of them has and the other has
 * not shows by the names alone. Without an await for each entry, since there are many.
 */
export function createCursor<R extends Row>(source: AsyncIterator<readonly R[]> | null) {
  let batch: readonly R[] = [];
  let at = 0;
  let ended = source === null;
  /** By depth: whether the manifest has the directory that the walk is in. */
  const same = [true];

  function match(position: Position, start: string): R | null | typeof LATER {
    const { depth, name, kind } = position;
    same.length = depth + 1;
    if (same[depth] !== true) return null;
    for (;;) {
      const row = batch[at];
      if (row === undefined) {
        if (ended) return null;
        return LATER;
      }
      if (typeof row === "string" && row.startsWith(start)) {
        at += 1;
        same[depth + 1] = kind === "directory";
        return row;
      }
      const entry = entryOf(row);
      if (entry.type === "more" || entry.depth > depth) {
        at += 1;
        continue;
      }
      if (entry.depth < depth) return null;
      const order = Buffer.compare(entry.name, name);
      if (order > 0) return null;
      at += 1;
      if (order < 0) continue;
      same[depth + 1] = entry.type === "dir" && kind === "directory";
      return row;
    }
  }

  return {
    /**
     * What the manifest has at the walk's position, whatever it is; null when it has nothing. `start` is what its line
     * would begin with if it were the same, so that most lines need not be parsed.
     */
    match,

    /** The rest of the file that was matched last, a piece each time; null when that is all. */
    more(): R | null | typeof LATER {
      const row = batch[at];
      if (row === undefined) return ended ? null : LATER;
      if (!isMore(row)) return null;
      at += 1;
      return row;
    },

    /** Whether `more` has more to say than null. */
    hasMore(): boolean {
      const row = batch[at];
      if (row === undefined) return !ended;
      return isMore(row);
    },

    /** To be awaited after LATER. */
    async load(): Promise<void> {
      const next = await source?.next();
      if (next === undefined || next.done === true) {
        ended = true;
        return;
      }
      batch = next.value;
      at = 0;
    },
  };
}

const isMore = (row: Row): boolean =>
  typeof row === "string" ? row.startsWith('{"more"') : row.type === "more";
