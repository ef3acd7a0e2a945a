import { Refused } from "./refusal.ts";

/** What a run may ask for whose grant does not say: enough for any agent, and too little to keep others from being served. */
const USUAL_PER_MINUTE = 6000;

/** So many requests a minute: a full minute's at once, then as they come back. */
export function createPace(now: () => number = Date.now) {
  const state = { tokens: Number.POSITIVE_INFINITY, at: now() };
  return {
    /** Throws a Refused that says when to come again. */
    take(limit: number | null): void {
      const perMinute = limit ?? USUAL_PER_MINUTE;
      const at = now();
      const back = (Math.max(0, at - state.at) * perMinute) / 60_000;
      state.tokens = Math.min(perMinute, state.tokens + back);
      state.at = at;
      if (state.tokens < 1) {
        const retryAfterS = Math.max(1, Math.ceil(((1 - state.tokens) * 60) / perMinute));
        throw new Refused("rate", `The run may make ${perMinute} requests a minute.`, { retryAfterS });
      }
      state.tokens -= 1;
    },
  };
}
