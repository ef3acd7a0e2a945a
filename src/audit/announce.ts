import type { EventData } from "./event.ts";
import type { Intent } from "./ledger.ts";

export type Announcement = Pick<Intent, "complete" | "abandon">;

/**
 * Tells the audit log of a change on disk before it is made, and resolves when the disk has that. `data` is what the
 * event will say, and what a start after a crash needs to tell whether the change was made. A rejection stops the change.
 */
export type Announce = (data: EventData) => Promise<Announcement>;

/**
 * Makes an announced change. `change` calls `happened` from the moment on at which others could see it: what fails
 * before that has no event; what fails after it stays announced, for the next start to find out what the disk kept.
 */
export async function makeAnnounced(
  announcing: Promise<Announcement>,
  data: EventData,
  change: (happened: () => void) => Promise<void>,
): Promise<void> {
  const seen = { happened: false };
  try {
    await change(() => (seen.happened = true));
  } catch (error) {
    // Failing that, it stays announced, and that costs no more than a note at the next start.
    if (!seen.happened) await announcing.then(async (it) => it.abandon()).catch(() => {});
    throw error;
  }
  const announcement = await announcing;
  await announcement.complete(data);
}
