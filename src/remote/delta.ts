import {
  decodeEntry,
  encodeEntry,
  type DirectoryEntry,
  type Entry,
  type FileEntry,
  type MoreEntry,
} from "../snapshots/manifest.ts";

/**
 * A path as one string that sorts as manifests do: a character for each byte, and NUL, which no name has, between the
 * names. Empty for the workspace itself.
 */
export type PathKey = string & { readonly path: unique symbol };

export function pathKey(names: readonly Uint8Array[]): PathKey {
  return names.map(latin1).join("\0") as PathKey;
}

function latin1(name: Uint8Array): string {
  return Buffer.from(name.buffer, name.byteOffset, name.length).toString("latin1");
}

/** What is at a path now; null: nothing. */
export type Change = DirectoryEntry | FileEntry | null;

/** What has changed since a manifest, by path. */
export type Delta = ReadonlyMap<PathKey, Change>;

/**
 * `delta` with later changes in it. What is no directory has nothing beneath it. null for what a delta can't say: a
 * directory where one was and then something else, of which the manifest before still has the old content.
 */
export function fold(delta: Delta, changes: Delta): Delta | null {
  const next = new Map(delta);
  for (const [key, change] of changes) {
    if (change?.type === "dir") {
      const before = next.get(key);
      if (before !== undefined && before?.type !== "dir") return null;
    } else {
      const beneath = `${key}\0`;
      for (const other of next.keys()) if (other.startsWith(beneath)) next.delete(other);
    }
    next.set(key, change);
  }
  return next;
}

export type DeltaLines = readonly (readonly [path: string, entry: string | null])[];

export function encodeDelta(delta: Delta): DeltaLines {
  return Array.from(delta, ([key, change]) => [key, change === null ? null : encodeEntry(change)]);
}

export function decodeDelta(lines: DeltaLines): Delta {
  return new Map(
    lines.map(([key, line]) => {
      const entry = line === null ? null : decodeEntry(line);
      if (entry !== null && entry.type !== "dir" && entry.type !== "file") {
        throw new Error("a change of no known type");
      }
      return [key as PathKey, entry];
    }),
  );
}

/** A file that had more names and was replaced under one of them, with the rest of its data. */
interface Orphan {
  readonly file: FileEntry;
  readonly more: MoreEntry[];
}

/** The entries of `base` with what has changed since, in the order of manifests, never all in memory. */
export async function* merged(
  base: AsyncIterable<readonly Entry[]>,
  delta: Delta,
): AsyncGenerator<readonly Entry[], void> {
  const changes = Array.from(delta, ([key, entry]) => ({ key, entry })).sort((a, b) =>
    a.key < b.key ? -1 : 1,
  );
  let at = 0;
  const names: string[] = [];
  /** What lies deeper than this was in a directory that is gone. */
  let goneBelow = Infinity;
  /** Where data that follows belongs: to an entry that was left out, or, when null, to the one before. */
  const following: { of: MoreEntry[] | null } = { of: null };
  /** By what its further names call it: the next of them gets the data. */
  const orphans = new Map<number, Orphan>();

  function leaveOut(entry: Exclude<Entry, MoreEntry>): void {
    const more: MoreEntry[] = [];
    following.of = more;
    if (entry.type === "file" && entry.link !== undefined) orphans.set(entry.link, { file: entry, more });
  }

  for await (const batch of base) {
    const out: Entry[] = [];
    for (const entry of batch) {
      if (entry.type === "more") {
        if (following.of === null) out.push(entry);
        else following.of.push(entry);
        continue;
      }
      following.of = null;
      if (entry.depth > goneBelow) {
        leaveOut(entry);
        continue;
      }
      goneBelow = Infinity;
      names.splice(entry.depth, Infinity, latin1(entry.name));
      const key = names.join("\0");
      let next = changes[at];
      for (; next !== undefined && next.key < key; next = changes[++at]) {
        if (next.entry !== null) out.push(next.entry);
      }
      if (next?.key === key) {
        at += 1;
        leaveOut(entry);
        if (entry.type === "dir" && next.entry?.type !== "dir") goneBelow = entry.depth;
        if (next.entry !== null) out.push(next.entry);
        continue;
      }
      const orphan = entry.type === "link" ? orphans.get(entry.first) : undefined;
      if (entry.type === "link" && orphan !== undefined) {
        orphans.delete(entry.first);
        out.push({ ...orphan.file, depth: entry.depth, name: entry.name }, ...orphan.more);
        continue;
      }
      out.push(entry);
    }
    yield out;
  }
  const rest = changes.slice(at).flatMap(({ entry }) => (entry === null ? [] : [entry]));
  if (rest.length > 0) yield rest;
}
