import { z } from "zod";
import { backupId, namespaceId, type BackupId } from "../ids.ts";
import type { BlobStore } from "../blobs/store.ts";
import { AppError } from "../errors.ts";
import { BACKUPS, keysOf } from "./layout.ts";
import { pieces, type Objects } from "./objects.ts";
import { missedNamespaces } from "./wire.ts";

/** What a backup is made of. Its last object, so that a backup exists whole or not at all. */
export const backupIndex = z.strictObject({
  format: z.literal("cofferdam backup 1"),
  id: backupId.schema,
  /** Milliseconds since 1970, from before anything was looked at. */
  created: z.int(),
  /** Of the program that made it. */
  program: z.string(),
  database: z.strictObject({ version: z.int(), content: pieces }),
  /** Whether there was a config.toml. */
  config: z.boolean(),
  /** Whether the gateway had a key: without it, credentials of runs open nowhere. */
  gateway: z.boolean().default(false),
  /** What opens it besides the master key. */
  access: z.enum(["passphrase", "recipient", "master key"]),
  /** SHA-256 of the objects that the appliance's secret is in; null of one that is not there. */
  keyring: z.string(),
  secret: z.string().nullable(),
  namespaces: z.int(),
  /** Null when the contents of files were left where they are, in the appliance's bucket. */
  blobs: z
    .strictObject({ list: pieces, count: z.int(), bytes: z.int(), addedCount: z.int(), addedBytes: z.int() })
    .nullable(),
  /** Deleted while it was made: the copy of the database has them still, but their contents are not there. */
  gone: z.array(namespaceId.schema),
  /** Whose files could not be captured: they are as an earlier backup has them, or not there. */
  missed: missedNamespaces,
  /** Blobs that were missing or damaged in the appliance itself. */
  lacking: z.array(z.strictObject({ namespace: namespaceId.schema, blob: z.string() })),
});
export type BackupIndex = z.infer<typeof backupIndex>;

export async function putIndex(objects: Pick<Objects, "put">, index: BackupIndex): Promise<void> {
  await objects.put(keysOf(index.id).index, Buffer.from(JSON.stringify(index)));
}

/** Throws an AppError when it is missing, damaged, or of a form that this program does not know. */
export async function getIndex(objects: Pick<Objects, "get">, id: BackupId): Promise<BackupIndex> {
  const json: unknown = JSON.parse(Buffer.from(await objects.get(keysOf(id).index)).toString());
  const index = backupIndex.safeParse(json);
  if (index.success && index.data.id === id) return index.data;
  throw new AppError(
    "invalid",
    `The backup ${id} is of a form that this program does not know; use a newer one.`,
  );
}

/** The backups that are whole, oldest first, and what is there of others. */
export async function backupsIn(store: Pick<BlobStore, "list">) {
  const whole = new Set<BackupId>();
  const begun = new Set<BackupId>();
  for await (const { key } of store.list(BACKUPS)) {
    const id = backupId.schema.safeParse(key.slice(BACKUPS.length).split("/")[0]);
    if (!id.success) continue;
    begun.add(id.data);
    if (key === keysOf(id.data).index) whole.add(id.data);
  }
  return {
    ids: [...whole].toSorted(),
    unfinished: [...begun].filter((id) => !whole.has(id)),
  };
}
