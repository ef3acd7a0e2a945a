import { and, desc, eq } from "drizzle-orm";
import type { Config } from "../../config/schema.ts";
import type { Database } from "../../db/open.ts";
import { events } from "../../db/schema.ts";
import type { Check } from "../../protocol/sandboxd.ts";

const HOUR_MS = 60 * 60_000;
/** Backups that may be missing before it is told. */
const LATE = 2;
const FIX =
  "See why: journalctl -u cofferdam-backup, or try: cofferdam backup create. docs/backup.md says more.";

/** Whether the backups that the configuration asks for are made; nothing when it asks for none. */
export async function backupCheck(
  db: Pick<Database, "select">,
  { to, every_h }: Config["backup"],
  now = Date.now(),
): Promise<Check[]> {
  if (to === "") return [];
  const [newest] = await db
    .select({ createdAt: events.createdAt })
    .from(events)
    .where(and(eq(events.chain, "appliance"), eq(events.type, "backup.created")))
    .orderBy(desc(events.createdAt))
    .limit(1);
  const name = "backup";
  if (newest === undefined) {
    return [
      { name, status: "warn", detail: `the audit log knows of none, and [backup] to is ${to}`, fix: FIX },
    ];
  }
  const hours = Math.floor((now - newest.createdAt / 1000) / HOUR_MS);
  const detail = `the last one was made ${hours < 1 ? "within the hour" : `${hours} hours ago`}`;
  if (hours < LATE * every_h) return [{ name, status: "ok", detail, fix: null }];
  return [{ name, status: "warn", detail: `${detail}, and one is due every ${every_h}`, fix: FIX }];
}
