import type { Entry, MoreEntry } from "./manifest.ts";

/** What comes next is not loaded yet. */
export const LATER = Symbol("later");

export type Cursor = ReturnType<typeof createCursor>;

/** An entry of a walk, as far as it takes to find it in a manifest. */
export interface Position {
  readonly depth: number;
  readonly name: Uint8Array;
  readonly kind: string;
}

/**
 * A manifest, gone through in step with a walk: both are in the same order, so what one of them has and the other has
 * not shows by the names alone. Without an await for each entry, since there are many.
 */
export function createCursor(source: AsyncIterator<readonly Entry[]> | null) {
  let batch: readonly Entry[] = [];
  let at = 0;
  let ended = source === null;
  /** By depth: whether the manifest has the directory that the walk is in. */
  const same = [true];

  function match(position: Position): Entry | null | typeof LATER {
    const { depth, name, kind } = position;
    same.length = depth + 1;
    if (same[depth] !== true) return null;
    for (;;) {
      const entry = batch[at];
      if (entry === undefined) {
        if (ended) return null;
        return LATER;
      }
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
      return entry;
    }
  }

  return {
    /** The manifest's entry at the walk's position, whatever it is; null when it has none. */
    match,

    /** The rest of the file that was matched last, a piece each time; null when that is all. */
    more(): MoreEntry | null | typeof LATER {
      const entry = batch[at];
      if (entry === undefined) return ended ? null : LATER;
      if (entry.type !== "more") return null;
      at += 1;
      return entry;
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
