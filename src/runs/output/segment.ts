import {
  closeSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { wholeCharacters } from "../../utf8.ts";

/** A run's output is kept in segments, so that the oldest can go: an index, and a file for each kind of what it tells of. */
export const STREAMS = ["stdout", "stderr", "status"] as const;
export type Stream = (typeof STREAMS)[number];

/** What an index says of one entry: where in its stream's file its bytes are. */
export interface IndexEntry {
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly stream: Stream;
  readonly offset: number;
  readonly length: number;
}

/** Bytes by stream. */
export type Amounts = Readonly<Record<Stream, number>>;
export const NOTHING: Amounts = { stdout: 0, stderr: 0, status: 0 };

const MAGIC = Buffer.from("cofflog1");
export const HEADER_BYTES = 32;
const ENTRY_BYTES = 16;
/** The longest character less one byte. */
const MAX_TORN = 3;
const NAME = /^(\d{12})\.index$/;

const fileName = (first: number, kind: Stream | "index") => `${String(first).padStart(12, "0")}.${kind}`;

/** The first sequence number of each segment in a directory, in order. */
export function segmentsIn(dir: string): number[] {
  const found = readdirSync(dir).flatMap((name) => NAME.exec(name)?.[1] ?? []);
  return found.map(Number).toSorted((a, b) => a - b);
}

export const segmentFile = (dir: string, first: number, kind: Stream | "index"): string =>
  join(dir, fileName(first, kind));

/** The index goes first: without one there is no segment. */
export function removeSegment(dir: string, first: number): void {
  for (const kind of ["index", ...STREAMS] as const) rmSync(segmentFile(dir, first, kind), { force: true });
}

/** What `length` bytes of an index file hold, whole entries only. */
export const entriesIn = (length: number): number =>
  Math.max(0, Math.floor((length - HEADER_BYTES) / ENTRY_BYTES));
export const positionOf = (entry: number): number => HEADER_BYTES + entry * ENTRY_BYTES;

export function decodeEntries(bytes: Buffer): IndexEntry[] {
  return Array.from({ length: Math.floor(bytes.length / ENTRY_BYTES) }, (_, index) => {
    const at = index * ENTRY_BYTES;
    return {
      at: bytes.readUIntLE(at, 6),
      stream: STREAMS[bytes.readUInt8(at + 6)] ?? "status",
      offset: bytes.readUInt32LE(at + 8),
      length: bytes.readUInt32LE(at + 12),
    };
  });
}

/** How much came before the segment that begins an index. After a power cut there may be none: then nobody knows. */
export function decodeHeader(bytes: Buffer): Amounts {
  if (bytes.length < HEADER_BYTES || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return NOTHING;
  const amount = (index: number) => Number(bytes.readBigUInt64LE(MAGIC.length + 8 * index));
  return { stdout: amount(0), stderr: amount(1), status: amount(2) };
}

function encodeHeader(before: Amounts): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header);
  for (const [index, stream] of STREAMS.entries()) {
    header.writeBigUInt64LE(BigInt(before[stream]), MAGIC.length + 8 * index);
  }
  return header;
}

export type Segment = ReturnType<typeof openSegment>;

/**
 * Begins a segment. `torn` are the bytes of characters that were not whole yet when the one before ended; its index
 * leaves them out. It is there once its index is, whenever this process is killed.
 */
export function createSegment(
  dir: string,
  first: number,
  before: Amounts,
  torn: Partial<Record<Stream, Uint8Array>>,
): Segment {
  for (const stream of STREAMS) writeFile(segmentFile(dir, first, stream), torn[stream] ?? new Uint8Array());
  const path = segmentFile(dir, first, "index");
  writeFile(`${path}.new`, encodeHeader(before));
  renameSync(`${path}.new`, path);
  return openSegment(dir, first);
}

/** The newest segment, to be written to. What a kill left of its files without an entry gets one with `index`. */
export function openSegment(dir: string, first: number) {
  const files = Object.fromEntries(
    STREAMS.map((stream) => [stream, openSync(segmentFile(dir, first, stream), "r+")]),
  ) as Record<Stream, number>;
  const index = openSync(segmentFile(dir, first, "index"), "r+");
  const before = decodeHeader(read(index, 0, HEADER_BYTES));
  writeSync(index, encodeHeader(before), 0, HEADER_BYTES, 0);
  const sizes = { stdout: size(files.stdout), stderr: size(files.stderr), status: size(files.status) };
  const indexed: Record<Stream, number> = { ...NOTHING };
  let entries = 0;
  // Of a power cut, an index may know of bytes that the files lost, or hold zeros.
  for (const { stream, offset, length } of decodeEntries(
    read(index, HEADER_BYTES, size(index) - HEADER_BYTES),
  )) {
    if (length === 0 || offset !== indexed[stream] || offset + length > sizes[stream]) break;
    indexed[stream] += length;
    entries += 1;
  }
  ftruncateSync(index, positionOf(entries));

  return {
    first,
    before,
    /** Where the bytes of a stream are put, at `size`. */
    file: (stream: Stream): number => files[stream],
    size: (stream: Stream): number => sizes[stream],
    /** So many bytes have been put there. */
    grew: (stream: Stream, bytes: number): void => void (sizes[stream] += bytes),
    /** Bytes that have an entry. */
    amount: (stream: Stream): number => indexed[stream],
    get entries() {
      return entries;
    },
    /** On the disk. */
    get bytes() {
      return sizes.stdout + sizes.stderr + sizes.status + positionOf(entries);
    },

    /** Makes an entry of what has none: but for a character that is not whole yet, unless it is the end. */
    index(stream: Stream, at: number, end = false): boolean {
      const offset = indexed[stream];
      const torn = end ? 0 : tornBytes(files[stream], offset, sizes[stream]);
      const length = sizes[stream] - offset - torn;
      if (length <= 0) return false;
      const entry = Buffer.alloc(ENTRY_BYTES);
      entry.writeUIntLE(at, 0, 6);
      entry.writeUInt8(STREAMS.indexOf(stream), 6);
      entry.writeUInt32LE(offset, 8);
      entry.writeUInt32LE(length, 12);
      writeSync(index, entry, 0, ENTRY_BYTES, positionOf(entries));
      indexed[stream] += length;
      entries += 1;
      return true;
    },

    /** What has no entry. */
    torn: (stream: Stream): Buffer => read(files[stream], indexed[stream], sizes[stream] - indexed[stream]),

    close(): void {
      for (const fd of [index, ...Object.values(files)]) closeSync(fd);
    },
  };
}

function tornBytes(file: number, from: number, to: number): number {
  const start = Math.max(from, to - MAX_TORN);
  const tail = read(file, start, to - start);
  return tail.length - wholeCharacters(tail);
}

const size = (fd: number): number => fstatSync(fd).size;

function read(fd: number, position: number, length: number): Buffer {
  const bytes = Buffer.alloc(Math.max(0, length));
  return bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, position));
}

function writeFile(path: string, bytes: Uint8Array): void {
  const fd = openSync(path, "w", 0o600);
  try {
    if (writeSync(fd, bytes) !== bytes.length) throw new Error(`${path}: short write`);
  } finally {
    closeSync(fd);
  }
}
