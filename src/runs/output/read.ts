import { closeSync, fstatSync, openSync, read as readFile } from "node:fs";
import { promisify } from "node:util";
import { codeOf } from "../../errors.ts";
import { readCached } from "../../kernel/file-data.ts";
import {
  decodeEntries,
  decodeHeader,
  entriesIn,
  HEADER_BYTES,
  positionOf,
  segmentFile,
  STREAMS,
  type IndexEntry,
  type Stream,
} from "./segment.ts";

/** One piece of output, or what the appliance says of the run. */
export interface Entry {
  /** 1, 2, 3 … within the run. */
  readonly seq: number;
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly stream: Stream;
  readonly bytes: Uint8Array;
}

export interface Batch {
  /** What is not kept any more of that which was asked for: up to which entry, and how many bytes since the run began. */
  readonly gap: { readonly seq: number; readonly bytes: number } | null;
  readonly entries: readonly Entry[];
}

/** Entries looked at for one batch. */
const MAX_ENTRIES = 512;
const readAsync = promisify(readFile);

/**
 * What comes after an entry, some `maxBytes` of it and at least one entry when there is one. `segments` are the first
 * numbers of those that there are; files are open only meanwhile, so that a reader keeps nothing from going. null when
 * the oldest went just now: look again.
 */
export async function readAfter(
  dir: string,
  segments: readonly number[],
  after: number,
  maxBytes: number,
): Promise<Batch | null> {
  const [oldest] = segments;
  if (oldest === undefined) return { gap: null, entries: [] };
  const from = Math.max(after + 1, oldest);
  const first = segments.findLast((first) => first <= from) ?? oldest;
  using files = openFiles(dir, first);
  const index = files.open("index");
  if (index === null) return null;
  const there = entriesIn(fstatSync(index).size) - (from - first);
  const count = Math.max(0, Math.min(there, MAX_ENTRIES));
  const [header, found] = await Promise.all([
    readAt(index, 0, HEADER_BYTES),
    readAt(index, positionOf(from - first), positionOf(count) - positionOf(0)),
  ]);
  const { stdout, stderr } = decodeHeader(header);
  const gap = from > after + 1 ? { seq: oldest - 1, bytes: stdout + stderr } : null;
  const wanted = within(decodeEntries(found), maxBytes);
  const contents = new Map<Stream, { readonly offset: number; readonly bytes: Buffer }>();
  for (const stream of STREAMS) {
    const its = wanted.filter((entry) => entry.stream === stream);
    const [begin, last] = [its[0], its.at(-1)];
    if (begin === undefined || last === undefined) continue;
    const file = files.open(stream);
    if (file === null) return null;
    const length = last.offset + last.length - begin.offset;
    contents.set(stream, { offset: begin.offset, bytes: await readAt(file, begin.offset, length) });
  }
  const entries = wanted.map(({ at, stream, offset, length }, position) => {
    const { offset: begin, bytes } = contents.get(stream) ?? { offset, bytes: Buffer.alloc(0) };
    return {
      seq: from + position,
      at,
      stream,
      bytes: bytes.subarray(offset - begin, offset - begin + length),
    };
  });
  return { gap, entries };
}

function within(entries: readonly IndexEntry[], maxBytes: number): IndexEntry[] {
  let bytes = 0;
  return entries.filter(({ length }, index) => {
    const fits = index === 0 || bytes < maxBytes;
    bytes += length;
    return fits;
  });
}

/** The files of a segment, closed with the scope. */
function openFiles(dir: string, first: number): Disposable & { open(kind: Stream | "index"): number | null } {
  const open: number[] = [];
  return {
    open(kind) {
      try {
        const fd = openSync(segmentFile(dir, first, kind), "r");
        open.push(fd);
        return fd;
      } catch (error) {
        if (codeOf(error) === "ENOENT") return null;
        throw error;
      }
    },
    [Symbol.dispose]: () => {
      for (const fd of open) closeSync(fd);
    },
  };
}

/** Mostly it was written just now, and is in memory: that takes no thread. */
async function readAt(fd: number, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const cached = readCached(fd, bytes, done, length - done, position + done);
    const { bytesRead } =
      cached === null
        ? await readAsync(fd, bytes, done, length - done, position + done)
        : { bytesRead: cached };
    if (bytesRead === 0) return bytes.subarray(0, done);
    done += bytesRead;
  }
  return bytes;
}
