import type { RunId } from "../../ids.ts";

/** A stream that its client does not read holds some 3 MiB of what the server has sent already. */
const OF_RUN = 16;
const ALL = 128;

/** How many requests of git's may be under way: for one run, and for all of them together. */
export function createPlaces({ ofRun = OF_RUN, all = ALL } = {}) {
  const taken = new Map<RunId, number>();
  const total = { taken: 0 };
  return {
    /** What gives the place back, which may be called twice; null when there is none. */
    take(run: RunId): (() => void) | null {
      const mine = taken.get(run) ?? 0;
      if (mine >= ofRun || total.taken >= all) return null;
      taken.set(run, mine + 1);
      total.taken += 1;
      const state = { given: false };
      return () => {
        if (state.given) return;
        state.given = true;
        total.taken -= 1;
        const left = (taken.get(run) ?? 1) - 1;
        if (left === 0) taken.delete(run);
        else taken.set(run, left);
      };
    },
  };
}
