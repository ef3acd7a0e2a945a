import { AppError } from "../errors.ts";
import type { WorkspaceId } from "../ids.ts";

const WINDOW_MS = 10 * 60_000;
/** Wrong codes in a window, of one workspace and from one address. */
const PER_WORKSPACE = 10;
const PER_SOURCE = 30;
/** And of all together. */
const IN_ALL = 300;
/** What each workspace still has when all together have used up theirs. */
const RESERVED = 2;

export interface Guesser {
  readonly workspaceId: WorkspaceId;
  /** What the address counts as; null on the admin socket. */
  readonly source: string | null;
}

interface Count {
  wrong: number;
  readonly until: number;
}

/**
 * Counts wrong user codes. Who may try one at all has an admin key, so a guesser is a workspace: it can have keys and
 * addresses without number, but workspaces are made by the operator alone. Therefore no one can use up what the others
 * have, and still the sum is bounded. In memory, since codes live no longer than a window.
 */
export function createGuesses(now: () => number) {
  const counts = new Map<string, Count>();

  function countOf(name: string): Count {
    const known = counts.get(name);
    if (known !== undefined && known.until > now()) return known;
    const fresh = { wrong: 0, until: now() + WINDOW_MS };
    counts.set(name, fresh);
    return fresh;
  }

  function forgetOld(): void {
    for (const [name, { wrong, until }] of counts) if (wrong === 0 || until <= now()) counts.delete(name);
  }

  return {
    /**
     * A try counts as wrong until `right` says otherwise: many at once can't all be looked up before the first is counted.
     * Throws when there were too many.
     */
    begin({ workspaceId, source }: Guesser): { right(): void } {
      forgetOld();
      const all = countOf("all");
      const ofWorkspace = countOf(workspaceId);
      const ofSource = source === null ? null : countOf(`from ${source}`);
      if (ofWorkspace.wrong >= (all.wrong >= IN_ALL ? RESERVED : PER_WORKSPACE)) throw tooMany(ofWorkspace);
      if (ofSource !== null && ofSource.wrong >= PER_SOURCE) throw tooMany(ofSource);
      const counted = [all, ofWorkspace, ...(ofSource === null ? [] : [ofSource])];
      for (const count of counted) count.wrong += 1;
      return {
        right: () => {
          for (const count of counted) count.wrong -= 1;
        },
      };
    },
  };

  function tooMany({ until }: Count): AppError {
    return new AppError("busy", "There were too many wrong codes; wait a few minutes before the next.", {
      retryAfterS: (until - now()) / 1000,
    });
  }
}
