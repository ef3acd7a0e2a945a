import type { BlobId, SealedBlobs } from "../blobs/sealed.ts";
import { createPause } from "../volumes/pause.ts";
import {
  bundledIn,
  createManifestWriter,
  encodeEntry,
  readLines,
  type Head,
  type ManifestRef,
  type Row,
} from "./manifest.ts";

/** Memory for what is held; a longer list goes to the store at once. */
const HELD_BYTES = 32 * 1024 * 1024;
/** What an extent takes, or an entry without any. */
const PART_BYTES = 200;
/** Of a bundle, so little that its content is better packed anew. */
const POOR_BYTES = 1024 * 1024;
/** That many poor bundles before it is done: then it reads at most as many MiB. */
const POOR_AT_MOST = 32;

/** The entries of one pass over the files, for the next pass to compare with and for the manifest to be made of. */
export function createSpool({
  blobs,
  closeBundle,
}: {
  readonly blobs: Pick<SealedBlobs, "put" | "get">;
  /** Fills in what entries still leave open. */
  readonly closeBundle: () => Promise<void> | undefined;
}) {
  let held: Row[] = [];
  let heldBytes = 0;
  let spilled: ReturnType<typeof createManifestWriter> | null = null;
  const live = new Map<BlobId, number>();

  /** What is held, as lines: nothing is open in them. */
  async function settled(): Promise<readonly string[]> {
    await closeBundle();
    const pause = createPause();
    for (const [index, row] of held.entries()) {
      if (index % 64 === 0) await pause();
      if (typeof row !== "string") held[index] = encodeEntry(row);
    }
    return held as readonly string[];
  }

  async function write(to: ReturnType<typeof createManifestWriter>): Promise<void> {
    const pause = createPause();
    for (const [index, line] of (await settled()).entries()) {
      if (index % 64 === 0) await pause();
      const writing = to.add(line);
      if (writing !== undefined) await writing;
      const bundled = bundledIn(line);
      if (bundled !== null) live.set(bundled.blob, (live.get(bundled.blob) ?? 0) + bundled.length);
    }
    held = [];
    heldBytes = 0;
  }

  /** Bundles of which little is in use, if they are many. */
  function poor(): BlobId[] {
    const found = [...live].flatMap(([blob, bytes]) => (bytes < POOR_BYTES ? [blob] : []));
    return found.length > POOR_AT_MOST ? found : [];
  }

  return {
    add(row: Row): Promise<void> | undefined {
      held.push(row);
      if (typeof row === "string") heldBytes += row.length;
      else heldBytes += PART_BYTES * ("data" in row ? 1 + row.data.length : 1);
      return heldBytes < HELD_BYTES ? undefined : write((spilled ??= createManifestWriter(blobs)));
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
    async lines(head: Omit<Head, "repack">): Promise<() => AsyncIterator<readonly string[]>> {
      if (spilled === null) {
        const lines = await settled();
        return () => only(lines);
      }
      const { ref } = await this.finish(head);
      return () => readLines(blobs, ref);
    },
  };
}

async function* only<T>(value: T): AsyncGenerator<T, void> {
  yield value;
}
