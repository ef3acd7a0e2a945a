import { z } from "zod";
import { StaleVersion, type BlobStore } from "../blobs/store.ts";
import { AppError } from "../errors.ts";
import type { Secrets } from "../secrets.ts";
import { BACKUPS, MARKER, NAMESPACES } from "./layout.ts";

const schema = z.object({ format: z.literal("cofferdam backups 1"), appliance: z.string() });

/** Names an appliance without telling anything of its secret: nobody else's backup has this name. */
export function applianceName(secrets: Pick<Secrets, "derive">): string {
  return Buffer.from(secrets.derive("backup target")).toString("hex").slice(0, 16);
}

/** A target is one appliance's: another would take its blobs for what nobody needs. */
export async function claimTarget(
  store: Pick<BlobStore, "read" | "replace" | "list">,
  secrets: Pick<Secrets, "derive">,
): Promise<void> {
  const appliance = applianceName(secrets);
  const mine = Buffer.from(`${JSON.stringify({ format: "cofferdam backups 1", appliance })}\n`);
  const found = await store.read(MARKER);
  if (found === null) {
    await refuseUnmarked(store);
    try {
      await store.replace(MARKER, mine, null);
      return;
    } catch (error) {
      if (!(error instanceof StaleVersion)) throw error;
    }
  }
  await checkTarget(store, secrets);
}

/** What bears names like a backup's without a marker is somebody's: an appliance's own bucket, which a prune would empty. */
async function refuseUnmarked(store: Pick<BlobStore, "list">): Promise<void> {
  for (const prefix of [NAMESPACES, BACKUPS]) {
    for await (const { key } of store.list(prefix)) {
      throw new AppError(
        "conflict",
        `The target holds ${key}, but no object "${MARKER}" that says it is a set of backups: give the backups a place of their own.`,
      );
    }
  }
}

/** Throws an AppError when there are no backups, or those of another appliance. */
export async function checkTarget(
  store: Pick<BlobStore, "read">,
  secrets: Pick<Secrets, "derive"> | null,
): Promise<void> {
  const found = await store.read(MARKER);
  if (found === null) throw new AppError("not_found", "There are no backups of Cofferdam's there.");
  const marker = schema.safeParse(jsonOf(Buffer.from(found.bytes).toString()));
  if (!marker.success) {
    throw new AppError(
      "invalid",
      `What lies there is no set of backups: its object "${MARKER}" is of no known form.`,
    );
  }
  if (secrets === null || marker.data.appliance === applianceName(secrets)) return;
  throw new AppError("conflict", "The backups there are of another appliance; give each a place of its own.");
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
