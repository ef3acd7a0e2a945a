import type { SealedBlobs } from "../blobs/sealed.ts";
import { createPause } from "../volumes/pause.ts";
import {
  createPath,
  damagedManifest,
  decodeManifest,
  readHead,
  type Entry,
  type Extent,
  type FileEntry,
  type ManifestRef,
} from "./manifest.ts";
import { createBlobReader, type BlobReader } from "./reader.ts";
import { BLOCK, padding, storedBytes, TAR_END, tarHeader, type Range, type TarEntry } from "./tar.ts";

/** What the archive unpacks into. */
const TOP = Buffer.from("workspace");
/** No system opens a longer path in one go. */
const MAX_PATH_BYTES = 4095;
/** Of files with more names, the paths kept to point to: together. */
const MAX_LINK_PATH_BYTES = 32 * 1024 * 1024;
/** Pieces of a file's data, which are kept to tell where its holes are: 400 GiB where there are none. */
const MAX_EXTENTS = 100_000;
/** Small pieces are given out together. */
const PIECE_BYTES = 256 * 1024;
const LEFT_OUT = "LEFT-OUT.txt";
const LEFT_OUT_SHOWN = 100;

interface Source {
  readonly blobs: Pick<SealedBlobs, "get">;
  readonly ref: ManifestRef;
}

/**
 * The files of a manifest as a tar archive, in pieces of a few MiB at most, as they are taken. Nothing in it can make
 * an ordinary tar write outside of where it unpacks: every path is below `workspace`, by names that are one component each,
 * through directories that the archive itself has made; hard links point to files before them; symlinks are only ever the
 * last component. Permissions are all that is left of modes.
 */
export async function* tarOf({ blobs, ref }: Source): AsyncGenerator<Uint8Array, void> {
  const head = await readHead(blobs, ref);
  const reader = createBlobReader(blobs);
  const paths = createPath();
  const links = createLinkPaths();
  const leftOut = createLeftOut();
  const small = createPieces();
  // Of what is left out, nothing is handed on that others could have a turn at.
  const pause = createPause();

  yield* small.add(tarHeader({ type: "dir", path: TOP, ...head.root }));
  for await (const { entry, extents } of wholeEntries(blobs, ref)) {
    await pause();
    const length = TOP.length + SLASH.length + paths.enter(entry);
    const pathOf = () => Buffer.concat([TOP, SLASH, paths.bytes()]);
    const described =
      length > MAX_PATH_BYTES ? "its path is too long" : describe(entry, pathOf(), extents, links);
    if (typeof described === "string") {
      leftOut.add(pathOf, described);
      continue;
    }
    yield* small.add(tarHeader(described));
    if (described.type !== "file") continue;
    for await (const bytes of contentOf(reader, extents, described)) yield* small.add([bytes]);
    yield* small.add([padding(storedBytes(described))]);
  }
  const note = leftOut.note();
  if (note !== null) {
    const about = { path: Buffer.from(LEFT_OUT), mode: 0o644, mtime: [0, 0] } as const;
    yield* small.add(tarHeader({ type: "file", ...about, size: note.length, ranges: null }));
    yield* small.add([note, padding(note.length)]);
  }
  yield* small.add([TAR_END]);
  yield* small.rest();
}

const SLASH = Buffer.from("/");
const ZEROS = new Uint8Array(BLOCK);

type Whole = { readonly entry: Exclude<Entry, { type: "more" }>; readonly extents: readonly Extent[] };

/** Each entry with all of its data. */
async function* wholeEntries(blobs: Source["blobs"], ref: ManifestRef): AsyncGenerator<Whole, void> {
  let last: { entry: Whole["entry"]; extents: Extent[] } | null = null;
  for await (const batch of decodeManifest(blobs, ref)) {
    for (const entry of batch) {
      if (entry.type === "more") {
        // Of one that has too many there is no use for the others.
        if (last !== null && last.extents.length <= MAX_EXTENTS) last.extents.push(...entry.data);
        continue;
      }
      if (last !== null) yield last;
      last = { entry, extents: entry.type === "file" ? [...entry.data] : [] };
    }
  }
  if (last !== null) yield last;
}

/** Or why it can't be in the archive. */
function describe(
  entry: Whole["entry"],
  path: Buffer,
  extents: readonly Extent[],
  links: LinkPaths,
): TarEntry | string {
  if (entry.type === "link") {
    const first = links.of(entry.first);
    if (first === undefined) return "the file that it is another name of is not here";
    return { type: "link", path, mode: first.mode, mtime: first.mtime, target: first.path };
  }
  const { mtime } = entry;
  if (entry.type === "dir") return { type: "dir", path, mode: entry.mode, mtime };
  if (entry.type === "symlink") return { type: "symlink", path, mode: 0o777, mtime, target: entry.target };
  if (extents.length > MAX_EXTENTS) return "it has too many pieces";
  if (entry.link !== undefined) links.remember(entry.link, path, entry);
  const { mode, size } = entry;
  return { type: "file", path, mode, mtime, size, ranges: rangesOf(extents, size) };
}

/**
 * Where the data is, neighbours as one; null when there is no hole. In whole blocks, since GNU tar begins each range with
 * a new one: what is no data in them is sent as zeros.
 */
function rangesOf(extents: readonly Extent[], size: number): Range[] | null {
  const ranges: [position: number, length: number][] = [];
  for (const [position, , , length] of extents) {
    const start = position - (position % BLOCK);
    const end = Math.min(size, Math.ceil((position + length) / BLOCK) * BLOCK);
    const last = ranges.at(-1);
    if (last !== undefined && start <= last[0] + last[1]) last[1] = end - last[0];
    else ranges.push([start, end - start]);
  }
  const [first] = ranges;
  const whole = ranges.length === 1 && first?.[0] === 0 && first[1] === size;
  return whole || size === 0 ? null : ranges;
}

/** As many bytes as `ranges` has. */
async function* contentOf(
  reader: BlobReader,
  extents: readonly Extent[],
  { size, ranges }: { readonly size: number; readonly ranges: readonly Range[] | null },
): AsyncGenerator<Uint8Array, void> {
  const rest = [...(ranges ?? [[0, size] as const])].toReversed();
  let at = 0;
  let end = 0;
  for await (const { position, bytes } of reader.data(extents)) {
    if (position < at || position + bytes.length > size) throw damagedManifest("data that overlaps");
    for (let next = rest.at(-1); next !== undefined && next[0] <= position; next = rest.at(-1)) {
      yield* zeros(end - at);
      [at, end] = [next[0], next[0] + next[1]];
      rest.pop();
    }
    yield* zeros(position - at);
    yield bytes;
    at = position + bytes.length;
  }
  yield* zeros(end - at);
}

function* zeros(count: number): Generator<Uint8Array> {
  for (let left = count; left > 0; left -= BLOCK) yield ZEROS.subarray(0, Math.min(left, BLOCK));
}

type LinkPaths = ReturnType<typeof createLinkPaths>;

function createLinkPaths() {
  const known = new Map<number, Pick<FileEntry, "mode" | "mtime"> & { readonly path: Buffer }>();
  let bytes = 0;
  return {
    remember(number: number, path: Buffer, { mode, mtime }: FileEntry): void {
      if (bytes > MAX_LINK_PATH_BYTES) return;
      bytes += path.length;
      known.set(number, { path, mode, mtime });
    },
    of: (number: number) => known.get(number),
  };
}

/** So that nobody takes an archive for more than it is. */
function createLeftOut() {
  const shown: Buffer[] = [];
  let count = 0;
  return {
    add(pathOf: () => Buffer, why: string): void {
      count += 1;
      if (count > LEFT_OUT_SHOWN) return;
      // A copy, of one that may be megabytes.
      shown.push(Buffer.from(pathOf().subarray(0, MAX_PATH_BYTES)), Buffer.from(`: ${why}\n`));
    },
    note(): Buffer | null {
      if (count === 0) return null;
      const title = `${count} of the namespace's entries are not in this archive; restoring the snapshot brings them back.\n`;
      return Buffer.concat([Buffer.from(title), ...shown]);
    },
  };
}

/** Gathers what is small. By copy: a small part of a blob would keep all of it in memory. */
function createPieces() {
  let piece = Buffer.allocUnsafe(PIECE_BYTES);
  let length = 0;

  function* rest(): Generator<Uint8Array> {
    if (length === 0) return;
    yield piece.subarray(0, length);
    piece = Buffer.allocUnsafe(PIECE_BYTES);
    length = 0;
  }

  return {
    *add(all: readonly Uint8Array[]): Generator<Uint8Array> {
      for (const bytes of all) {
        if (length + bytes.length > PIECE_BYTES) yield* rest();
        if (bytes.length > PIECE_BYTES) {
          yield bytes;
          continue;
        }
        piece.set(bytes, length);
        length += bytes.length;
      }
    },
    rest,
  };
}
