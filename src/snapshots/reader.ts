import type { BlobId, SealedBlobs } from "../blobs/sealed.ts";
import { damagedManifest, type Extent } from "./manifest.ts";

/** Blobs kept: neighbours in a tree share one, and a large file's next ones are fetched ahead. */
const KEPT = 4;
/** Fetched before they are needed. */
const AHEAD = 2;

export type BlobReader = ReturnType<typeof createBlobReader>;

/** Reads the data of many files that lie in few blobs, and each blob once, mostly. */
export function createBlobReader(blobs: Pick<SealedBlobs, "get">) {
  /** Least recently used first. */
  const kept = new Map<BlobId, Promise<Uint8Array>>();

  function get(id: BlobId): Promise<Uint8Array> {
    const found = kept.get(id) ?? blobs.get(id);
    // Whoever awaits it gets the error; what was fetched ahead may be wanted by nobody.
    found.catch(() => {});
    kept.delete(id);
    kept.set(id, found);
    if (kept.size > KEPT) kept.delete(kept.keys().next().value as BlobId);
    return found;
  }

  return {
    /** The data of each extent, verified, in order. */
    async *data(extents: readonly Extent[]): AsyncGenerator<{ position: number; bytes: Uint8Array }, void> {
      for (const [index, [position, id, offset, length]] of extents.entries()) {
        const coming = get(id);
        for (const [, next] of extents.slice(index + 1, index + 1 + AHEAD)) void get(next);
        const content = await coming;
        if (offset < 0 || length <= 0 || offset + length > content.length) {
          throw damagedManifest("data that its blob does not have");
        }
        yield { position, bytes: content.subarray(offset, offset + length) };
      }
    },
  };
}
