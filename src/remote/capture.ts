import type { BlobId, SealedBlobs } from "../blobs/sealed.ts";
import { lookFd } from "../kernel/look.ts";
import { createPacker } from "../snapshots/pack.ts";
import { pass } from "../snapshots/pass.ts";
import { createSpool } from "../snapshots/spool.ts";
import { encodeEntry, type Entry, type ManifestRef } from "../snapshots/manifest.ts";
import type { Descriptor } from "../volumes/descriptor.ts";
import { createPause } from "../volumes/pause.ts";

/** What is known of the files from before. */
export interface Earlier {
  /** To be gone through from the start each time. */
  readonly entries: () => AsyncIterable<readonly Entry[]>;
  /** Of the workspace itself. */
  readonly rootMode: number;
  /** Milliseconds since 1970: what changed later is read whatever it looks like. */
  readonly trustedBefore: number;
  readonly repack: readonly BlobId[];
}

export interface CaptureParts {
  readonly live: Descriptor;
  readonly blobs: SealedBlobs;
  /** As `blobs`, for what manifests are made of. */
  readonly manifests: Pick<SealedBlobs, "get" | "put">;
  readonly earlier: Earlier;
}

/** Looks at all files and stores those that have changed. null: all is as it was. Else everything is durable. */
export async function capture(parts: CaptureParts): Promise<ManifestRef | null> {
  const { live, blobs, manifests, earlier } = parts;
  const started = Date.now();
  const { mode, mtime } = lookFd(live.fd);
  const repack = new Set(earlier.repack);
  const packer = createPacker(blobs);
  packer.learnFrom(async () => {
    for await (const entries of earlier.entries()) for (const entry of entries) packer.learn(entry, repack);
  });
  const spool = createSpool({ blobs: manifests, closeBundle: packer.close });
  const compared = compare(earlier.entries());
  const tally = await pass({
    live,
    earlier: { entries: compared.entries, trustedBefore: earlier.trustedBefore / 1000, repack },
    packer,
    add(entry) {
      compared.see(entry);
      return spool.add(entry);
    },
    pause: createPause(),
  });
  if (mode === earlier.rootMode && (await compared.isSame())) return null;
  await packer.end();
  const { files, bytes, skipped } = tally;
  const { ref } = await spool.finish({
    started,
    root: { mode, mtime: [mtime[0], mtime[1]] },
    files,
    bytes,
    skipped,
  });
  return ref;
}

/** Whether what is seen is what there was before, in step with somebody else who reads that. */
function compare(before: AsyncIterable<readonly Entry[]>) {
  const source = before[Symbol.asyncIterator]();
  let batch: readonly Entry[] = [];
  let at = 0;
  let same = true;

  async function next() {
    const result = await source.next();
    // All of the batch before has to have been seen by now.
    if (at < batch.length) same = false;
    batch = result.done === true ? [] : result.value;
    at = 0;
    return result;
  }

  return {
    entries: { next } satisfies AsyncIterator<readonly Entry[]>,

    see(entry: Entry): void {
      const was = batch[at++];
      if (was !== entry) same &&= was !== undefined && encodeEntry(was) === encodeEntry(entry);
    },

    async isSame(): Promise<boolean> {
      while (same && at >= batch.length) if ((await next()).done === true) return same;
      return false;
    },
  };
}
