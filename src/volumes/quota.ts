import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";

/** A count is taken again after this long, since commands make files too, or later where counting takes long. */
const FRESH_MS = 1000;
const COUNTING_SHARE = 0.05;

interface Known {
  entries: number;
  freshUntil: number;
}

export type FileQuota = ReturnType<typeof createFileQuota>;

/** How many files and directories each namespace has, counted no more often than the API's own calls need. */
export function createFileQuota(maxFiles: number) {
  const known = new Map<NamespaceId, Known>();

  async function recount(id: NamespaceId, count: () => Promise<number>): Promise<Known> {
    const before = performance.now();
    const entries = await count();
    const now = performance.now();
    const found = { entries, freshUntil: now + Math.max(FRESH_MS, (now - before) / COUNTING_SHARE) };
    known.set(id, found);
    return found;
  }

  return {
    /** Lets `more` entries be made, or throws no_space. `count` says how many there are. */
    async admit(id: NamespaceId, more: number, count: () => Promise<number>): Promise<void> {
      if (maxFiles === 0) return;
      let found = known.get(id);
      // Nobody is refused because of an old count.
      if (found === undefined || found.freshUntil < performance.now() || found.entries + more > maxFiles) {
        found = await recount(id, count);
      }
      if (found.entries + more > maxFiles) {
        throw new AppError(
          "no_space",
          `The namespace would have more than the ${maxFiles} files and directories it may have; delete some.`,
        );
      }
      found.entries += more;
    },

    forget(id: NamespaceId): void {
      known.delete(id);
    },
  };
}
