import type { BlobId, SealedBlobs } from "../blobs/sealed.ts";
import { lookFd } from "../kernel/look.ts";
import { createPacker } from "../snapshots/pack.ts";
import { pass } from "../snapshots/pass.ts";
import { createSpool } from "../snapshots/spool.ts";
import { encodeEntry, type ManifestRef, type Row } from "../snapshots/manifest.ts";
import type { Descriptor } from "../volumes/descriptor.ts";
import { createPause } from "../volumes/pause.ts";

/** What is known of the files from before. */
export interface Earlier {
  /** To be gone through from the start each time. */
  readonly entries: () => AsyncIterable<readonly Row[]>;
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
  const pause = createPause();
  packer.learnFrom(async () => {
    for await (const rows of earlier.entries()) {
      for (const row of rows) packer.learn(row, repack);
      await pause();
    }
  });
  const spool = createSpool({ blobs: manifests, closeBundle: packer.close });
  const compared = compare(earlier.entries());
  /** So many rows are the same from the start on: they are gone through again once there is something to write. */
  const same = { rows: 0, written: false };

  async function writeSame(): Promise<void> {
    same.written = true;
    let left = same.rows;
    for await (const rows of earlier.entries()) {
      for (const row of rows.slice(0, left)) await spool.add(row);
      left -= rows.length;
      await pause();
      if (left <= 0) return;
    }
  }

  async function writeFirst(row: Row): Promise<void> {
    await writeSame();
    await spool.add(row);
  }

  function add(row: Row): Promise<void> | undefined {
    if (same.written) return spool.add(row);
    if (!compared.see(row)) return writeFirst(row);
    same.rows += 1;
    return undefined;
  }

  const { trustedBefore } = earlier;
  const before = { entries: compared.entries, trustedBefore: trustedBefore / 1000, repack };
  const tally = await pass<Row>({ live, earlier: before, packer, add, pause });
  if (!same.written) {
    if (mode === earlier.rootMode && (await compared.isAll())) return null;
    await writeSame();
  }
  const { files, bytes, skipped } = tally;
  const head = {
    started,
    root: { mode, mtime: [mtime[0], mtime[1]] as [number, number] },
    files,
    bytes,
    skipped,
  };
  const [, { ref }] = await Promise.all([packer.end(), spool.finish(head)]);
  return ref;
}

/** Whether what is seen is what there was before, in step with somebody else who reads that. */
function compare(before: AsyncIterable<readonly Row[]>) {
  const source = before[Symbol.asyncIterator]();
  let batch: readonly Row[] = [];
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
    entries: { next } satisfies AsyncIterator<readonly Row[]>,

    /** Whether it is what comes next. */
    see(row: Row): boolean {
      const was = batch[at++];
      if (was !== row) same &&= was !== undefined && lineOf(was) === lineOf(row);
      return same;
    },

    /** Whether what was seen is all there was. */
    async isAll(): Promise<boolean> {
      while (same && at >= batch.length) if ((await next()).done === true) return same;
      return false;
    },
  };
}

const lineOf = (row: Row): string => (typeof row === "string" ? row : encodeEntry(row));
