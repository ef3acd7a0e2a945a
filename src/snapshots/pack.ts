import { MAX_BLOB_BYTES, type BlobId, type SealedBlobs } from "../blobs/sealed.ts";
import { createFlow } from "./flow.ts";
import { bundledIn, decodeEntry, type Extent, type Row } from "./manifest.ts";

/** Files smaller than this share blobs: of ten thousand files of a workspace some dozens are made. */
export const BUNDLED_BELOW = 1024 * 1024;
/** Of files and blobs whose content is known, so that equal content is stored once. */
const KNOWN_AT_MOST = 100_000;
/** Of a keyed hash, in hex: no two contents have the same. */
export const HASH_LENGTH = 32;

/** What was read lies in memory until it is stored: 16 MiB at most, and what sealing takes besides. */
const PUTS_AT_ONCE = 4;

/** Filled in once the bundle is closed. */
type Placed = [position: number, blob: BlobId, offset: number, length: number];
const OPEN = "" as BlobId;

export interface Packed {
  readonly data: readonly Extent[];
  readonly hash: string;
}

export type Packer = ReturnType<typeof createPacker>;

/**
 * Puts the contents of files into blobs: small ones together, equal ones once. What it returns for a small one says in
 * which blob it is only once that is closed.
 */
export function createPacker(blobs: Pick<SealedBlobs, "idOf" | "put">) {
  const flow = createFlow(PUTS_AT_ONCE);
  const free: Buffer[] = [];
  /** By hash: the data, or the line of a file that has it. */
  const contents = new Map<string, readonly Extent[] | string>();
  const stored = new Set<BlobId>();
  let bundle = takeBuffer();
  let used = 0;
  let waiting: Placed[] = [];
  let storedBytes = 0;
  let newBytes = 0;
  let learning: (() => Promise<void>) | null = null;

  function takeBuffer(): Buffer {
    return free.pop() ?? Buffer.allocUnsafeSlow(MAX_BLOB_BYTES);
  }

  function put(buffer: Buffer, length: number, id: BlobId): Promise<void> | undefined {
    return flow.start(async () => {
      const put = await blobs.put(buffer.subarray(0, length), id);
      storedBytes += put.storedBytes;
      free.push(buffer);
    });
  }

  function close(): Promise<void> | undefined {
    if (used === 0) return undefined;
    const id = blobs.idOf(bundle.subarray(0, used));
    for (const extent of waiting) extent[1] = id;
    const putting = put(bundle, used, id);
    bundle = takeBuffer();
    used = 0;
    waiting = [];
    return putting;
  }

  /** Only once something is to be stored. */
  async function learnt(): Promise<void> {
    if (learning === null) return;
    const learn = learning;
    learning = null;
    await learn();
  }

  function know(hash: string, data: readonly Extent[] | string): void {
    if (contents.size < KNOWN_AT_MOST) contents.set(hash, data);
  }

  return {
    takeBuffer,
    /** Where the next small content is to be read to, at most `length` bytes. */
    async room(length: number): Promise<{ readonly buffer: Buffer; readonly offset: number }> {
      if (learning !== null) await learnt();
      if (used + length > MAX_BLOB_BYTES) await close();
      return { buffer: bundle, offset: used };
    },

    /** Takes the `length` bytes that are there now. */
    keep(length: number, position = 0): Packed {
      const content = bundle.subarray(used, used + length);
      const hash = blobs.idOf(content).slice(0, HASH_LENGTH);
      const known = position === 0 ? contents.get(hash) : undefined;
      if (known !== undefined) return { data: dataOf(known), hash };
      if (length === 0) return { data: [], hash };
      const extent: Placed = [position, OPEN, used, length];
      const data = [extent];
      if (position === 0) know(hash, data);
      waiting.push(extent);
      used += length;
      newBytes += length;
      return { data, hash };
    },

    /** A piece of a large file as a blob of its own. The buffer came from takeBuffer, and is not the caller's any more. */
    async whole(buffer: Buffer, length: number): Promise<BlobId> {
      if (learning !== null) await learnt();
      const id = blobs.idOf(buffer.subarray(0, length));
      if (stored.has(id)) {
        free.push(buffer);
        return id;
      }
      if (stored.size < KNOWN_AT_MOST) stored.add(id);
      newBytes += length;
      await put(buffer, length, id);
      return id;
    },

    /** How `learn` is to be told of all that is stored already, if that is ever of use. */
    learnFrom(learn: () => Promise<void>): void {
      learning = learn;
    },

    /** What an earlier manifest says is stored, but for what lies in the bundles of `except`. */
    learn(row: Row, except: ReadonlySet<BlobId>): void {
      const bundled = typeof row === "string" ? bundledIn(row) : null;
      if (typeof row === "string" && bundled !== null) {
        if (!except.has(bundled.blob)) know(bundled.hash, row);
        return;
      }
      const entry = typeof row === "string" ? decodeEntry(row) : row;
      if (entry.type !== "file" && entry.type !== "more") return;
      if (entry.type === "file" && entry.hash !== undefined) {
        if (entry.data.every(([, blob]) => !except.has(blob))) know(entry.hash, entry.data);
        return;
      }
      for (const [, blob] of entry.data) if (stored.size < KNOWN_AT_MOST) stored.add(blob);
    },

    /** Closes the bundle: all that was returned is filled in. */
    close,

    /** Everything is durable when it resolves. `newBytes` is what was not stored before, as it was in the files. */
    async end(): Promise<{ readonly storedBytes: number; readonly newBytes: number }> {
      await close();
      await flow.end();
      return { storedBytes, newBytes };
    },
  };
}

function dataOf(known: readonly Extent[] | string): readonly Extent[] {
  if (typeof known !== "string") return known;
  const entry = decodeEntry(known);
  return entry.type === "file" ? entry.data : [];
}
