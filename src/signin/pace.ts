import { AppError } from "../errors.ts";
import type { LoginId } from "../ids.ts";

/** Seconds between two polls, as the program is told. */
export const INTERVAL_S = 2;
const INTERVAL_MS = INTERVAL_S * 1000;
/** A poll that the network held up must not make the next one early. */
const SLACK_MS = INTERVAL_MS / 2;
const REMEMBERED = 4096;

/**
 * Refuses polls that come faster than the interval, and never one at it: a client that is refused gives up. A refused
 * one does not count, so that slowing down is all that it takes. In memory: after a restart the next poll is early at
 * worst.
 */
export function createPace(now: () => number) {
  const due = new Map<LoginId, number>();

  return {
    check(id: LoginId): void {
      const at = due.get(id) ?? 0;
      if (now() < at - SLACK_MS) {
        throw new AppError("busy", `Poll every ${INTERVAL_S} seconds, not faster.`, {
          retryAfterS: INTERVAL_S,
        });
      }
      if (due.size >= REMEMBERED) for (const [known, when] of due) if (when < now()) due.delete(known);
      due.set(id, Math.max(now(), at) + INTERVAL_MS);
    },
  };
}
