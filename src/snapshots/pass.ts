import type { BlobId } from "../blobs/sealed.ts";
import { readLinkAt } from "../kernel/directory.ts";
import type { Time } from "../kernel/look.ts";
import type { Descriptor } from "../volumes/descriptor.ts";
import { codeOf } from "../volumes/failure.ts";
import type { Pause } from "../volumes/pause.ts";
import { createCursor, LATER, type Cursor } from "./cursor.ts";
import type { Entry, FileEntry } from "./manifest.ts";
import type { Packer } from "./pack.ts";
import { openContent, readLarge, readSmall } from "./read.ts";
import { walk, type Found } from "./walk.ts";

/** An earlier manifest of the same files, and what of it may still be true. */
export interface Earlier {
  readonly entries: AsyncIterator<readonly Entry[]>;
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

export interface PassParts {
  readonly live: Descriptor;
  readonly earlier: Earlier | null;
  readonly packer: Packer;
  readonly add: (entry: Entry) => Promise<void> | undefined;
  readonly pause: Pause;
  /** More than this is not read: TooMuch is thrown. */
  readonly limit?: { readonly files: number; readonly bytes: number };
}

export class TooMuch extends Error {}

/**
 * Goes over all files of a namespace, in a manifest's order, and reads those that the earlier manifest does not vouch
 * for: their ctime, size or inode differ, or they changed too shortly before it began for a clock to tell.
 */
export async function pass({ live, earlier, packer, add, pause, limit }: PassParts): Promise<Tally> {
  const tally: Tally = { files: 0, bytes: 0, skipped: 0, read: { files: 0, bytes: 0 } };
  const cursor = createCursor(earlier?.entries ?? null);
  /** Of files with more names: what they are called in the manifest. */
  const shared = new Map<bigint, number>();

  for (const found of walk(live)) {
    await pause();
    if (found === null) continue;
    let was = cursor.match(found);
    while (was === LATER) {
      await cursor.load();
      was = cursor.match(found);
    }
    switch (found.kind) {
      case "directory":
        await add({ ...placed(found), type: "dir", mode: found.mode, mtime: found.mtime });
        break;
      case "link": {
        const target = targetOf(found);
        if (target !== null) await add({ ...placed(found), type: "symlink", mtime: found.mtime, target });
        break;
      }
      case "file":
        await addFile(found, was);
        break;
      case "other":
        tally.skipped += 1;
        break;
      default:
        found.kind satisfies never;
    }
  }
  return tally;

  async function addFile(found: Found, was: Entry | null): Promise<void> {
    const first = found.shared === null ? undefined : shared.get(found.shared);
    if (first !== undefined) {
      tally.files += 1;
      await add({ ...placed(found), type: "link", first });
      return;
    }
    const link = found.shared === null ? undefined : shared.size;
    if (was?.type === "file" && earlier !== null && isUnchanged(was, found, earlier)) {
      await add(was.link === link ? was : relinked(was, link));
      await addRest(cursor);
      tally.bytes += was.size;
    } else if (!(await read(found, link))) return;
    tally.files += 1;
    if (found.shared !== null) shared.set(found.shared, shared.size);
  }

  async function addRest(from: Cursor): Promise<void> {
    for (;;) {
      const more = from.more();
      if (more === null) return;
      if (more === LATER) await from.load();
      else await add(more);
    }
  }

  /** False when it is no file any more. */
  async function read(found: Found, link: number | undefined): Promise<boolean> {
    using file = openContent(found.dirFd, found.name);
    if (file === null) return false;
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
    tally.bytes += size;
    tally.read.files += 1;
    tally.read.bytes += size;
    return true;
  }
}

function placed({ depth, name }: Found) {
  return { depth, name };
}

function isUnchanged(was: FileEntry, found: Found, { trustedBefore, repack }: Earlier): boolean {
  return (
    was.inode === found.inode &&
    was.size === found.size &&
    was.ctime[0] === found.ctime[0] &&
    was.ctime[1] === found.ctime[1] &&
    seconds(found.ctime) < trustedBefore &&
    (repack.size === 0 || was.hash === undefined || !was.data.some(([, blob]) => repack.has(blob)))
  );
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
