import type { SealedBlobs } from "../../blobs/sealed.ts";
import {
  damagedManifest,
  decodeManifest,
  type DirectoryEntry,
  type Entry,
  type Extent,
  type FileEntry,
  type SymlinkEntry,
} from "../../snapshots/manifest.ts";
import type { Base } from "./base.ts";
import type { Stamp } from "./stamps.ts";

export interface FileBefore {
  readonly type: "file";
  readonly mode: number;
  readonly size: number;
  /** All of its data. */
  readonly extents: readonly Extent[];
  /** As the namespace had it. */
  readonly entry: FileEntry;
  /** As the worktree got it; null when that is not known. */
  readonly stamp: Stamp | null;
}

/** What a base has at a path. */
export type Before = DirectoryEntry | SymlinkEntry | FileBefore;

/** The same with where it is. */
export interface Placed {
  readonly depth: number;
  readonly name: Uint8Array;
  readonly before: Before;
}

/** Whether two are the same kind of thing in a base and on the disk. */
export const KIND = { dir: "directory", file: "file", symlink: "link" } as const;

/** A base's entries in order, each whole, and other names of a file as what that file is. */
export async function* entriesOf(
  blobs: Pick<SealedBlobs, "get">,
  { manifest }: Pick<Base, "manifest">,
  nextStamp: () => Stamp | null = () => null,
): AsyncGenerator<Placed, void> {
  if (manifest === null) return;
  const shared = new Map<number, FileBefore>();
  let file: { readonly entry: FileEntry; readonly extents: Extent[] } | null = null;

  function whole({ entry, extents }: NonNullable<typeof file>): Placed {
    const { depth, name, mode, size, link } = entry;
    const before = { type: "file", mode, size, extents, entry, stamp: nextStamp() } as const;
    if (link !== undefined) shared.set(link, before);
    return { depth, name, before };
  }

  for await (const batch of decodeManifest(blobs, manifest)) {
    for (const entry of batch) {
      if (entry.type === "more") {
        for (const extent of entry.data) file?.extents.push(extent);
        continue;
      }
      if (file !== null) yield whole(file);
      file = null;
      if (entry.type === "file") file = { entry, extents: [...entry.data] };
      else yield placed(entry, shared);
    }
  }
  if (file !== null) yield whole(file);
}

function placed(
  entry: Exclude<Entry, FileEntry | { type: "more" }>,
  shared: ReadonlyMap<number, FileBefore>,
): Placed {
  const { depth, name } = entry;
  if (entry.type !== "link") return { depth, name, before: entry };
  const before = shared.get(entry.first);
  if (before === undefined) throw damagedManifest("another name of no file");
  return { depth, name, before };
}
