import { codeOf } from "../errors.ts";
import type { BlobId } from "../blobs/sealed.ts";
import { readLinkAt } from "../kernel/directory.ts";
import type { Time } from "../kernel/look.ts";
import type { Descriptor } from "../volumes/descriptor.ts";
import type { Pause } from "../volumes/pause.ts";
import { createCursor, entryOf, LATER } from "./cursor.ts";
import { nameJson, startOfDirectory, startOfFile, type Entry, type FileEntry, type Row } from "./manifest.ts";
import { BUNDLED_BELOW, type Packer } from "./pack.ts";
import { openContent, readLarge, readSmall } from "./read.ts";
import { walk, type Found } from "./walk.ts";

/** How many entries are looked at between two questions whether others should have a turn. */
const PAUSE_EVERY = 16;

/** An earlier manifest of the same files, and what of it may still be true. */
export interface Earlier<R extends Row = Row> {
  /** As entries or, which is quicker, as lines. */
  readonly entries: AsyncIterator<readonly R[]>;
  /** Seconds since 1970: a file that was changed since is read, whatever else it looks like. */
  readonly trustedBefore: number;
  /** Files in these bundles are read, to be packed anew. */
  readonly repack: ReadonlySet<BlobId>;
}

export interface Tally {
  /** Names of files. */
  files: number;
  /** Of the files' contents, each file once. */
  bytes: number;
  skipped: number;
  readonly read: { files: number; bytes: number };
}

export interface PassParts<R extends Row = Row> {
  readonly live: Descriptor;
  readonly earlier: Earlier<R> | null;
  readonly packer: Packer;
  /** What has not changed comes as the earlier manifest has it. */
  readonly add: (row: R | Entry) => Promise<void> | undefined;
  readonly pause: Pause;
  /** More than this is not read: TooMuch is thrown. */
  readonly limit?: { readonly files: number; readonly bytes: number };
}

export class TooMuch extends Error {}

/**
 * Goes over all files of a namespace, in a manifest's order, and reads those that the earlier manifest does not vouch
 * for: their ctime, size or inode differ, or they changed too shortly before it began for a clock to tell.
 */
export async function pass<R extends Row>(parts: PassParts<R>): Promise<Tally> {
  const { live, earlier, packer, add, pause, limit } = parts;
  const tally: Tally = { files: 0, bytes: 0, skipped: 0, read: { files: 0, bytes: 0 } };
  const cursor = createCursor(earlier?.entries ?? null);
  /** Of files with more names: what they are called in the manifest. */
  const shared = new Map<bigint, number>();

  let looked = 0;
  for (const found of walk(live)) {
    // Not for each: an await costs as much as a look.
    if (looked++ % PAUSE_EVERY === 0) await pause();
    if (found === null) continue;
    const first = found.shared === null ? undefined : shared.get(found.shared);
    const link = found.shared === null ? undefined : shared.size;
    const start = startOf(found, link);
    let was = cursor.match(found, start);
    while (was === LATER) {
      await cursor.load();
      // What is gone since is passed over, however much it is.
      await pause();
      was = cursor.match(found, start);
    }
    let adding: Promise<unknown> | undefined;
    switch (found.kind) {
      case "directory":
        adding = add({ ...placed(found), type: "dir", mode: found.mode, mtime: found.mtime });
        break;
      case "link": {
        const target = targetOf(found);
        if (target !== null) adding = add({ ...placed(found), type: "symlink", mtime: found.mtime, target });
        break;
      }
      case "file":
        if (first !== undefined) {
          tally.files += 1;
          adding = add({ ...placed(found), type: "link", first });
        } else adding = addFile(found, link, start, was);
        break;
      case "other":
        tally.skipped += 1;
        break;
      default:
        found.kind satisfies never;
    }
    if (adding !== undefined) await adding;
  }
  return tally;

  function addFile(found: Found, link: number | undefined, start: string, was: R | null) {
    const same = was === null || earlier === null ? null : unchanged(was, found, start, link, earlier);
    if (same === null) return readAnew(found, link);
    counted(found, found.size);
    // Only what is larger than a piece, or has holes, may go on in further entries.
    const adding = add(same);
    const hasMore = found.size >= BUNDLED_BELOW && cursor.hasMore();
    return adding !== undefined || hasMore ? addRest(adding) : undefined;
  }

  async function addRest(adding: Promise<void> | undefined): Promise<void> {
    await adding;
    for (;;) {
      const more = cursor.more();
      if (more === null) return;
      if (more === LATER) await cursor.load();
      else await add(more);
    }
  }

  function counted(found: Found, size: number): void {
    tally.files += 1;
    tally.bytes += size;
    if (found.shared !== null) shared.set(found.shared, shared.size);
  }

  async function readAnew(found: Found, link: number | undefined): Promise<void> {
    await pause();
    const size = await read(found, link);
    if (size !== null) counted(found, size);
  }

  /** null when it is no file any more. */
  async function read(found: Found, link: number | undefined): Promise<number | null> {
    using file = openContent(found.dirFd, found.name);
    if (file === null) return null;
    const { mode, mtime, ctime, inode } = file.look;
    const linked = link === undefined ? {} : { link };
    const entry = { ...placed(found), type: "file", mode, mtime, ctime, inode, ...linked } as const;
    let { size } = file.look;
    if (limit !== undefined && (tally.read.files >= limit.files || tally.read.bytes + size > limit.bytes)) {
      throw new TooMuch();
    }
    if (file.small) {
      const content = await readSmall(file, packer);
      ({ size } = content);
      await add({ ...entry, ...content });
    } else {
      let begun = false;
      for await (const data of readLarge(file, packer, pause)) {
        await add(begun ? { type: "more", data } : { ...entry, size, data });
        begun = true;
      }
    }
    tally.read.files += 1;
    tally.read.bytes += size;
    return size;
  }
}

function placed({ depth, name }: Found) {
  return { depth, name };
}

/** What a line that tells of the same entry begins with; of what is neither file nor directory, none does. */
function startOf(found: Found, link: number | undefined): string {
  if (found.kind === "other" || found.kind === "link") return NO_LINE;
  const name = PLAIN.test(found.text) ? `"${found.text}"` : nameJson(found.name);
  if (found.kind === "directory") return startOfDirectory(name, found.depth);
  return `${startOfFile(name, link === undefined ? found : { ...found, link })},`;
}

const NO_LINE = "\n";
/** Needs no escapes in JSON. */
const PLAIN = /^[ !#-[\]-~]*$/;

/** The row that is to be kept, if the file need not be read. */
function unchanged<R extends Row>(
  was: R,
  found: Found,
  start: string,
  link: number | undefined,
  { trustedBefore, repack }: Earlier<R>,
): R | FileEntry | null {
  if (seconds(found.ctime) >= trustedBefore) return null;
  if (typeof was === "string" && repack.size === 0 && was.startsWith(start)) return was;
  const entry = entryOf(was);
  const same =
    entry.type === "file" &&
    entry.inode === found.inode &&
    entry.size === found.size &&
    entry.ctime[0] === found.ctime[0] &&
    entry.ctime[1] === found.ctime[1] &&
    (entry.hash === undefined || !entry.data.some(([, blob]) => repack.has(blob)));
  if (!same) return null;
  return entry.link === link ? was : relinked(entry, link);
}

function seconds([whole, nanoseconds]: Time): number {
  return whole + nanoseconds / 1e9;
}

function relinked(was: FileEntry, link: number | undefined): FileEntry {
  const { depth, name, mode, mtime, size, data, ctime, inode, hash } = was;
  const entry = { type: "file", depth, name, mode, mtime, size, data, ctime, inode } as const;
  return { ...entry, ...(hash !== undefined && { hash }), ...(link !== undefined && { link }) };
}

/** null when it is no link any more. */
function targetOf({ dirFd, name }: Found): Uint8Array | null {
  try {
    return readLinkAt(dirFd, name);
  } catch (error) {
    if (codeOf(error) === "ENOENT" || codeOf(error) === "EINVAL") return null;
    throw error;
  }
}
