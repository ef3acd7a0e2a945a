import { BLOB_ID, blobPrefix, type BlobId, type SealedBlobs } from "../blobs/sealed.ts";
import type { BlobStore } from "../blobs/store.ts";
import type { NamespaceId } from "../ids.ts";
import { createPause, type Pause } from "../volumes/pause.ts";
import { decodeEntry } from "./manifest.ts";

/** Keys that one call to the store deletes. */
const BATCH = 500;

export interface Collected {
  readonly blobs: number;
  readonly bytes: number;
}

/**
 * Deletes a namespace's blobs that no manifest in `roots` names: `roots` has to be all there is, and nobody may be
 * making another meanwhile. With a manifest that can't be read nothing is deleted, since nobody knows what it names.
 */
export async function collect(
  {
    store,
    blobs,
    until = Infinity,
  }: {
    readonly store: Pick<BlobStore, "list" | "delete">;
    readonly blobs: Pick<SealedBlobs, "get">;
    /** By performance.now(): what is left then stays for another time. */
    readonly until?: number;
  },
  namespace: NamespaceId,
  roots: Iterable<{ readonly blobs: readonly string[] }>,
): Promise<Collected> {
  const marks = createMarks();
  const pause = createPause();
  for (const root of roots) await markRoot(root, { marks, blobs, pause });
  let batch: string[] = [];
  let bytes = 0;
  const collected = { blobs: 0, bytes: 0 };

  /** false: it is too late. */
  async function remove(): Promise<boolean> {
    if (performance.now() >= until) return false;
    await store.delete(batch);
    collected.blobs += batch.length;
    collected.bytes += bytes;
    batch = [];
    bytes = 0;
    return true;
  }

  for await (const { key, sizeBytes } of store.list(blobPrefix(namespace))) {
    const id = key.slice(key.lastIndexOf("/") + 1);
    // What is not called like a blob is not ours to delete.
    if (!BLOB_ID.test(id) || marks.has(id)) continue;
    batch.push(key);
    bytes += sizeBytes;
    if (batch.length >= BATCH && !(await remove())) return collected;
  }
  if (batch.length > 0) await remove();
  return collected;
}

/** Deletes all that the store has of a namespace, whose key is destroyed. */
export async function removeAll(
  store: Pick<BlobStore, "list" | "delete">,
  namespace: NamespaceId,
): Promise<void> {
  let batch: string[] = [];
  for await (const { key } of store.list(`${namespace}/`)) {
    batch.push(key);
    if (batch.length < BATCH) continue;
    await store.delete(batch);
    batch = [];
  }
  if (batch.length > 0) await store.delete(batch);
}

interface Marking {
  readonly marks: Marks;
  readonly blobs: Pick<SealedBlobs, "get">;
  readonly pause: Pause;
}

/** Snapshots share most of the blobs that their lists of files are in: each of those is read once. */
async function markRoot(
  { blobs: [head, ...chunks] }: { readonly blobs: readonly string[] },
  { marks, blobs, pause }: Marking,
): Promise<void> {
  if (head !== undefined) marks.add(head);
  for (const chunk of chunks) {
    if (!marks.addList(chunk)) continue;
    const content = await blobs.get(chunk as BlobId);
    for (const line of Buffer.from(content.buffer, content.byteOffset, content.length)
      .toString()
      .split("\n")) {
      if (line === "") continue;
      const entry = decodeEntry(line);
      if ("data" in entry) for (const [, blob] of entry.data) marks.add(blob);
      await pause();
    }
  }
}

type Marks = ReturnType<typeof createMarks>;

/**
 * Ids by their first 48 bits, as numbers, which take a fifth of the memory. Where two begin alike, one that could go
 * stays.
 */
function createMarks() {
  const named = new Set<number>();
  const lists = new Set<string>();
  const short = (id: string) => Number.parseInt(id.slice(0, 12), 16);
  return {
    add: (id: string) => void named.add(short(id)),
    has: (id: string) => named.has(short(id)),
    /** false: its entries are marked already. */
    addList(id: string): boolean {
      if (lists.has(id)) return false;
      lists.add(id);
      named.add(short(id));
      return true;
    },
  };
}
