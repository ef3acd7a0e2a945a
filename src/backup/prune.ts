import { blobKey } from "../blobs/sealed.ts";
import type { BlobStore } from "../blobs/store.ts";
import { AppError } from "../errors.ts";
import type { BackupId } from "../ids.ts";
import type { Secrets } from "../secrets.ts";
import { backupsIn, getIndex } from "./index.ts";
import { keysOf, NAMESPACES } from "./layout.ts";
import { listedBlobs } from "./list.ts";
import type { TargetLock } from "./lock.ts";
import { createObjects } from "./objects.ts";

const AT_A_TIME = 500;

export interface PruneParts {
  /** Locked. */
  readonly store: BlobStore;
  readonly lock: Pick<TargetLock, "check">;
  readonly secrets: Pick<Secrets, "seal" | "open">;
  /** So many, the newest. */
  readonly keep: number;
  /** Stays all the same: it was made just now, whatever the clock said when the others were. */
  readonly made?: BackupId;
}

export interface Pruned {
  readonly kept: readonly BackupId[];
  readonly removed: readonly BackupId[];
  readonly blobs: number;
  readonly bytes: number;
}

/** Removes old backups, what killed ones left, and then the blobs that none of the kept ones needs. */
export async function pruneBackups({ store, lock, secrets, keep, made }: PruneParts): Promise<Pruned> {
  const objects = createObjects({ store, secrets });
  const { ids, unfinished } = await backupsIn(store);
  const newest = made === undefined ? ids : [...ids.filter((id) => id !== made), made];
  const kept = newest.slice(-keep);
  const removed = newest.slice(0, -keep);

  // Read before anything goes: where one can't be, nobody knows what it needs.
  const needed = new Set<string>();
  for (const id of kept) {
    const { blobs } = await getIndex(objects, id);
    if (blobs === null) continue;
    for await (const { namespace, blob } of listedBlobs(objects.getAll(keysOf(id).blobs, blobs.list))) {
      needed.add(blobKey(namespace, blob));
    }
  }

  await refuseLive(store);
  await lock.check();
  // From here on they are no backups any more, however far the rest comes.
  await store.delete(removed.map((id) => keysOf(id).index));
  for (const id of [...removed, ...unfinished]) await removeAll(store, lock, keysOf(id).all);

  const swept = { blobs: 0, bytes: 0 };
  const remove = async (keys: readonly string[]) => {
    await lock.check();
    await store.delete(keys);
  };
  let batch: string[] = [];
  for await (const { key, sizeBytes } of store.list(NAMESPACES)) {
    if (needed.has(key)) continue;
    batch.push(key);
    swept.blobs += 1;
    swept.bytes += sizeBytes;
    if (batch.length < AT_A_TIME) continue;
    await remove(batch);
    batch = [];
  }
  if (batch.length > 0) await remove(batch);
  return { kept, removed, ...swept };
}

/** No backup has a namespace's HEAD: it is how an appliance's own bucket is known, to which no backup is a measure. */
async function refuseLive(store: Pick<BlobStore, "list">): Promise<void> {
  for await (const { key } of store.list(NAMESPACES)) {
    if (!key.endsWith("/head")) continue;
    throw new AppError(
      "conflict",
      `An appliance keeps its files there (${key}), so nothing was removed: give the backups a place of their own.`,
    );
  }
}

async function removeAll(store: BlobStore, lock: Pick<TargetLock, "check">, prefix: string): Promise<void> {
  const keys: string[] = [];
  for await (const { key } of store.list(prefix)) keys.push(key);
  for (let at = 0; at < keys.length; at += AT_A_TIME) {
    await lock.check();
    await store.delete(keys.slice(at, at + AT_A_TIME));
  }
}
