import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";

/** A count is taken again after this long, since commands make files too, or later where counting takes long. */
const FRESH_MS = 1000;
const COUNTING_SHARE = 0.05;

interface Known {
  /** On the disk when they were counted, and what the API made since. */
  entries: number;
  freshUntil: number;
  /** Admitted, and perhaps not on the disk yet. */
  pending: number;
  counting: Promise<void> | null;
}

export type FileQuota = ReturnType<typeof createFileQuota>;

/**
 * How many files and directories each namespace has, counted no more often than the API's own calls need. `limit` is
 * how many it may have; 0: any number.
 */
export function createFileQuota(limit: () => number) {
  const known = new Map<NamespaceId, Known>();

  function recount(found: Known, count: () => Promise<number>): Promise<void> {
    const work = async () => {
      const before = performance.now();
      try {
        found.entries = await count();
        const now = performance.now();
        found.freshUntil = now + Math.max(FRESH_MS, (now - before) / COUNTING_SHARE);
      } finally {
        found.counting = null;
      }
    };
    return (found.counting ??= work());
  }

  return {
    /**
     * Runs `make`, which makes `more` entries, or throws no_space. `count` says how many there are.
     */
    async within<T>(
      id: NamespaceId,
      more: number,
      count: () => Promise<number>,
      make: () => Promise<T>,
    ): Promise<T> {
      const maxFiles = limit();
      if (maxFiles === 0 || more === 0) return make();
      const found = known.get(id) ?? { entries: 0, freshUntil: 0, pending: 0, counting: null };
      known.set(id, found);
      const over = () => found.entries + found.pending + more > maxFiles;
      // Nobody is refused because of an old count.
      if (found.freshUntil < performance.now() || over()) await recount(found, count);
      if (over()) {
        throw new AppError(
          "no_space",
          `The namespace would have more than the ${maxFiles} files and directories it may have; delete some.`,
        );
      }
      found.pending += more;
      try {
        const result = await make();
        found.entries += more;
        return result;
      } finally {
        found.pending -= more;
      }
    },

    /** After a deletion: the next write counts anew. */
    stale(id: NamespaceId): void {
      const found = known.get(id);
      if (found !== undefined) found.freshUntil = 0;
    },

    forget(id: NamespaceId): void {
      known.delete(id);
    },
  };
}
