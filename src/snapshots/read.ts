import { codeOf } from "../errors.ts";
import { MAX_BLOB_BYTES } from "../blobs/sealed.ts";
import { nextData, readCached } from "../kernel/file-data.ts";
import { lookFd, type Look } from "../kernel/look.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import { Descriptor } from "../volumes/descriptor.ts";
import { readAt } from "../volumes/disk.ts";
import type { Pause } from "../volumes/pause.ts";
import { MAX_EXTENTS, type Extent } from "./manifest.ts";
import { BUNDLED_BELOW, type Packer } from "./pack.ts";

/** Neither waits for a FIFO's other end nor follows what the name has become. */
const OPEN_FILE = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY;
/** A hole that is smaller is kept as zeros. */
const MIN_HOLE = 64 * 1024;
/** A piece of a large file that is smaller lies in a bundle. */
const MIN_PIECE = 64 * 1024;

export interface OpenContent extends Disposable {
  readonly fd: number;
  /** What the file was when it was opened. */
  readonly look: Look;
  /** Whether it is read whole, into a bundle. */
  readonly small: boolean;
}

/** A file of a directory; null when the name is no regular file's any more. */
export function openContent(dirFd: number, name: Uint8Array): OpenContent | null {
  const file = openRegular(dirFd, name);
  if (file === null) return null;
  const look = lookFd(file.fd);
  const close = () => file[Symbol.dispose]();
  if (look.kind === "file") {
    const small = look.size < BUNDLED_BELOW && look.allocatedBytes + MIN_HOLE > look.size;
    return { fd: file.fd, look, small, [Symbol.dispose]: close };
  }
  close();
  return null;
}

/** The whole content of a small file. `size` is what could be read of it. */
export async function readSmall({ fd, look }: OpenContent, packer: Packer) {
  const { buffer, offset } = await packer.room(look.size);
  const size = await fill(fd, buffer, offset, look.size, 0);
  return { size, ...packer.keep(size) };
}

/** The data of any other file, as many extents at once as an entry takes; once for a file without any. */
export async function* readLarge(
  { fd, look }: OpenContent,
  packer: Packer,
  pause: Pause,
): AsyncGenerator<readonly Extent[], void> {
  let data: Extent[] = [];
  for (const piece of pieces(fd, look.size)) {
    await pause();
    if (piece === null) continue;
    if (data.length === MAX_EXTENTS) {
      yield data;
      data = [];
    }
    data.push(...(await readPiece(fd, piece, packer)));
  }
  yield data;
}

async function readPiece(
  fd: number,
  { position, length }: Piece,
  packer: Packer,
): Promise<readonly Extent[]> {
  if (length < MIN_PIECE) {
    const { buffer, offset } = await packer.room(length);
    return packer.keep(await fill(fd, buffer, offset, length, position), position).data;
  }
  const buffer = packer.takeBuffer();
  const count = await fill(fd, buffer, 0, length, position);
  return count === 0 ? [] : [[position, await packer.whole(buffer, count), 0, count]];
}

interface Piece {
  readonly position: number;
  readonly length: number;
}

/**
 * The data of a file in pieces of one blob at most, which begin where they would if it had no holes. null where the
 * caller may pause.
 */
function* pieces(fd: number, size: number): Generator<Piece | null, void> {
  for (const data of dataOf(fd, size)) {
    if (data === null) {
      yield null;
      continue;
    }
    for (let position = data.start; position < data.end;) {
      const boundary = (Math.floor(position / MAX_BLOB_BYTES) + 1) * MAX_BLOB_BYTES;
      const length = Math.min(boundary, data.end) - position;
      yield { position, length };
      position += length;
    }
  }
}

/** Where data is, without regard to small holes. */
function* dataOf(fd: number, size: number): Generator<{ start: number; end: number } | null, void> {
  let current: { start: number; end: number } | null = null;
  for (let at = 0; at < size; yield null) {
    const next = nextData(fd, at);
    if (next === null || next.start >= size) break;
    at = Math.min(next.end, size);
    if (current !== null && next.start - current.end < MIN_HOLE) {
      current.end = at;
      continue;
    }
    if (current !== null) yield current;
    current = { start: next.start, end: at };
  }
  if (current !== null) yield current;
}

/** Up to `length` bytes: fewer when the file ends before. At once what is in memory, the rest without blocking. */
async function fill(
  fd: number,
  into: Buffer,
  offset: number,
  length: number,
  position: number,
): Promise<number> {
  let done = 0;
  while (done < length) {
    const left = length - done;
    const count =
      readCached(fd, into, offset + done, left, position + done) ??
      (await readAt(fd, into, offset + done, left, position + done));
    if (count === 0) break;
    done += count;
  }
  return done;
}

function openRegular(dirFd: number, name: Uint8Array): Descriptor | null {
  try {
    return new Descriptor(openBeneath(dirFd, name, OPEN_FILE, 0, { noSymlinks: true, noMounts: true }));
  } catch (error) {
    const code = codeOf(error);
    // Gone, a link, a socket or a device by now.
    if (code === "ENOENT" || code === "ELOOP" || code === "ENXIO" || code === "ENODEV") return null;
    throw error;
  }
}
