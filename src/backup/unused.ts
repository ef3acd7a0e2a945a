import { existsSync, lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { eq, gt, ne } from "drizzle-orm";
import { openCopy } from "../db/open.ts";
import { keys, namespaces, snapshots, webhooks, workspaces } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import type { Instance } from "../instance/instance.ts";
import { restoredFrom } from "../instance/restored.ts";

/** What an install makes: a workspace, its two keys, and the namespace in which the first command ran. */
const OF_INSTALL = { workspaces: 1, keys: 2, namespaces: 1 } as const;

/** Throws an AppError when the appliance, which is stopped, holds anything that somebody may want back. */
export async function refuseUsed(instance: Instance): Promise<void> {
  const held = [
    ...(restoredFrom(instance.data) === null ? [] : ["a backup was restored into it"]),
    ...(await heldInDatabase(instance)),
    ...heldInVolumes(instance.api.volumes),
  ];
  if (held.length === 0) return;
  throw new AppError(
    "conflict",
    `The appliance in ${instance.data} is not empty (${held.join(", ")}). A backup is restored into an empty one: give another --data, or remove this one for good with install.sh --uninstall --purge.`,
  );
}

async function heldInDatabase({ api }: Instance): Promise<string[]> {
  if (!existsSync(api.database)) return [];
  // Its directory is the api's: root must not be led elsewhere.
  if (!lstatSync(api.database).isFile()) throw new AppError("conflict", `${api.database} is no file.`);
  const db = await openCopy(api.database);
  try {
    const found = {
      workspaces: await db.$count(workspaces),
      keys: await db.$count(keys),
      namespaces: await db.$count(namespaces),
    };
    const held: string[] = [];
    for (const name of ["workspaces", "keys", "namespaces"] as const) {
      if (found[name] > OF_INSTALL[name]) held.push(`${found[name]} ${name}`);
    }
    const hooks = await db.$count(webhooks, ne(webhooks.state, "deleted"));
    if (hooks > 0) held.push(`${hooks} webhooks`);
    // They may lie in a bucket.
    const filled = await db.$count(namespaces, gt(namespaces.usageFiles, 0));
    if (filled > 0) held.push(`files of ${filled} namespaces`);
    const taken = await db.$count(snapshots, eq(snapshots.kind, "user"));
    if (taken > 0) held.push(`${taken} snapshots`);
    return held;
  } finally {
    db.close();
  }
}

/** Names may be encrypted, but not how many there are. */
function heldInVolumes(dir: string): string[] {
  if (!existsSync(dir)) return [];
  const used = readdirSync(dir).filter((name) => {
    const live = join(dir, name, "live");
    return name.startsWith("ns-") && existsSync(live) && readdirSync(live).length > 0;
  });
  return used.length === 0 ? [] : [`files in ${used.length} namespaces`];
}
