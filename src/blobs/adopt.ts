import type { Log } from "../log.ts";
import type { BlobStore } from "./store.ts";

const AT_ONCE = 16;

export interface AdoptParts {
  /** On the disk, from when this appliance had its blobs there. */
  readonly from: BlobStore;
  readonly to: BlobStore;
  /** Now and then while it takes long. */
  readonly onProgress: () => void;
  readonly log: Pick<Log, "info">;
}

/**
 * Brings the blobs of snapshots into the store that holds them from now on, before anybody asks for one there. Each
 * leaves the disk only when it is in the other, so one that was cut short is gone on with.
 */
export async function adoptBlobs({ from, to, onProgress, log }: AdoptParts): Promise<void> {
  const keys: string[] = [];
  for await (const { key } of from.list("")) keys.push(key);
  if (keys.length === 0) return;
  log.info("the blobs of snapshots are moved from the disk to the bucket", { blobs: keys.length });
  for (let at = 0; at < keys.length; at += AT_ONCE) {
    onProgress();
    const some = keys.slice(at, at + AT_ONCE);
    await Promise.all(
      some.map(async (key) => {
        const bytes = await from.get(key);
        if (bytes !== null) await to.put(key, bytes);
      }),
    );
    await from.delete(some);
  }
  log.info("the blobs of snapshots are in the bucket", { blobs: keys.length });
}
