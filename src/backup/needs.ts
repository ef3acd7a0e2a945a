import type { BlobId, SealedBlobs } from "../blobs/sealed.ts";
import { decodeManifest, type ManifestRef } from "../snapshots/manifest.ts";

/** Every blob that the manifests lead to. What a manifest can't be read for is left to who fetches its blobs. */
export async function blobsOf(
  blobs: Pick<SealedBlobs, "get">,
  manifests: readonly ManifestRef[],
): Promise<Set<BlobId>> {
  const needed = new Set<BlobId>();
  for (const ref of manifests) {
    for (const id of ref.blobs) needed.add(id);
    try {
      for await (const entries of decodeManifest(blobs, ref)) {
        for (const entry of entries) {
          if (entry.type !== "file" && entry.type !== "more") continue;
          for (const [, blob] of entry.data) needed.add(blob);
        }
      }
    } catch {
      // One of the manifest's own blobs is missing or damaged: it is found so when it is copied or verified itself.
    }
  }
  return needed;
}
