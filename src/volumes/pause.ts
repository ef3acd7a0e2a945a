import { setImmediate } from "node:timers/promises";

/** How long work on many entries may keep the event loop from everyone else. */
const SLICE_MS = 2;

export type Pause = () => Promise<void>;

/**
 * A function to await between steps: it gives the loop a turn whenever the slice is used up, and then throws the
 * signal's reason when nobody waits for the work any more.
 */
export function createPause(signal?: AbortSignal): Pause {
  let since = performance.now();
  return async () => {
    if (performance.now() - since < SLICE_MS) return;
    await setImmediate();
    signal?.throwIfAborted();
    since = performance.now();
  };
}
