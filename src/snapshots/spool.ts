import type { BlobId, SealedBlobs } from "../blobs/sealed.ts";
import { createPause } from "../volumes/pause.ts";
import { createManifestWriter, decodeManifest, type Entry, type Head, type ManifestRef } from "./manifest.ts";

/** Entries and extents held in memory, some 30 MiB; a longer list goes to the store at once. */
const HELD_AT_MOST = 100_000;
/** Of a bundle, so little that its content is better packed anew. */
const POOR_BYTES = 1024 * 1024;
/** That many poor bundles before it is done: then it reads at most as many MiB. */
const POOR_AT_MOST = 32;

export type Spool = ReturnType<typeof createSpool>;

/** The entries of one pass over the files, for the next pass to compare with and for the manifest to be made of. */
export function createSpool({
  blobs,
  closeBundle,
}: {
  readonly blobs: Pick<SealedBlobs, "put" | "get">;
  /** Fills in what entries still leave open. */
  readonly closeBundle: () => Promise<void> | undefined;
}) {
  let held: Entry[] = [];
  let weight = 0;
  let spilled: ReturnType<typeof createManifestWriter> | null = null;
  const live = new Map<BlobId, number>();

  async function write(to: ReturnType<typeof createManifestWriter>): Promise<void> {
    await closeBundle();
    const pause = createPause();
    for (const entry of held) {
      await pause();
      await to.add(entry);
      if (entry.type !== "file" || entry.hash === undefined) continue;
      for (const [, blob, , length] of entry.data) live.set(blob, (live.get(blob) ?? 0) + length);
    }
    held = [];
    weight = 0;
  }

  /** Bundles of which little is in use, if they are many. */
  function poor(): BlobId[] {
    const found = [...live].flatMap(([blob, bytes]) => (bytes < POOR_BYTES ? [blob] : []));
    return found.length > POOR_AT_MOST ? found : [];
  }

  return {
    add(entry: Entry): Promise<void> | undefined {
      held.push(entry);
      weight += 1 + ("data" in entry ? entry.data.length : 0);
      return weight < HELD_AT_MOST ? undefined : write((spilled ??= createManifestWriter(blobs)));
    },

    /** The manifest of what was added. */
    async finish(
      head: Omit<Head, "repack">,
    ): Promise<{ readonly ref: ManifestRef; readonly storedBytes: number }> {
      const writer = spilled ?? createManifestWriter(blobs);
      await write(writer);
      return await writer.finish({ ...head, repack: poor() });
    },

    /** What was added, after which nothing more is added. Each call of the answer goes through it from the start. */
    async entries(head: Omit<Head, "repack">): Promise<() => AsyncIterator<readonly Entry[]>> {
      if (spilled === null) return () => only(held);
      const { ref } = await this.finish(head);
      return () => decodeManifest(blobs, ref);
    },
  };
}

async function* only<T>(value: T): AsyncGenerator<T, void> {
  yield value;
}
