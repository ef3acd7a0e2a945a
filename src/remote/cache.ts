import type { BlobId, SealedBlobs } from "../blobs/sealed.ts";

/** Manifests' blobs, opened, of all namespaces: the end of each command goes through its namespace's manifest. */
export function createManifestCache(maxBytes: number) {
  /** Least recently used first. Ids are made with a namespace's key, so no two namespaces share one. */
  const kept = new Map<BlobId, Uint8Array>();
  let total = 0;

  function keep(id: BlobId, plain: Uint8Array): void {
    total += plain.length - (kept.get(id)?.length ?? 0);
    kept.delete(id);
    kept.set(id, plain);
    for (const [oldest, bytes] of kept) {
      if (total <= maxBytes) return;
      kept.delete(oldest);
      total -= bytes.length;
    }
  }

  return {
    /** `blobs`, to read and write manifests by. Those that `isThere` names are in the store, and not sent again. */
    of(
      blobs: Pick<SealedBlobs, "get" | "put" | "idOf">,
      isThere: (id: BlobId) => boolean,
    ): Pick<SealedBlobs, "get" | "put"> {
      return {
        async get(id) {
          const plain = kept.get(id) ?? (await blobs.get(id));
          keep(id, plain);
          return plain;
        },
        async put(plain, id = blobs.idOf(plain)) {
          const stored = isThere(id) ? { id, storedBytes: 0 } : await blobs.put(plain, id);
          keep(id, plain);
          return stored;
        },
      };
    },
  };
}
