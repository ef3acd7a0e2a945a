import {
  isEmptyDirectory,
  readDirectory,
  statAt,
  statFd,
  type Entry,
  type FileStatus,
} from "../kernel/directory.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import { AppError, codeOf } from "../errors.ts";
import { lookups, OPEN_DIRECTORY, openInside } from "./beneath.ts";
import { Descriptor } from "./descriptor.ts";
import { fileFailure } from "./failure.ts";
import type { WorkspacePath } from "./path.ts";
import { createPause, type Pause } from "./pause.ts";
import type { Space } from "./space.ts";
import { isoTime } from "./time.ts";

const MAX_ENTRIES = 1000;
const MAX_LEVELS = 20;
/** For each link that is shown. One that takes more shows as a link. */
const LINK_LOOKUPS = 40;
const { O_PATH, O_NOFOLLOW } = constants;

export interface ListEntry {
  readonly name: string;
  readonly path: string;
  readonly is_dir: boolean;
  /** null for a directory. */
  readonly size_bytes: number | null;
  readonly modified_at: string;
}

export interface Listing {
  readonly entries: ListEntry[];
  readonly truncated: boolean;
}

/**
 * Directories first, then by name; with `recursive`, what is in a directory follows it. A link counts as what it
 * points to inside the workspace, else as itself, and is never descended into.
 */
export async function listDirectory(
  space: Space,
  path: WorkspacePath,
  recursive: boolean,
  signal?: AbortSignal,
): Promise<Listing> {
  const walk: Walk = { space, entries: [], truncated: false, pause: createPause(signal) };
  try {
    using dir = openListed(space, path);
    await listInto(walk, dir, path.inner, recursive ? MAX_LEVELS : 1, recursive);
  } catch (error) {
    throw fileFailure(error, path);
  }
  return { entries: walk.entries, truncated: walk.truncated };
}

interface Walk {
  readonly space: Space;
  readonly entries: ListEntry[];
  truncated: boolean;
  readonly pause: Pause;
}

interface Row {
  /** Not every name is UTF-8; what isn't shows as U+FFFD. */
  readonly name: string;
  readonly raw: Uint8Array;
  readonly isDir: boolean;
  readonly isLink: boolean;
}

async function listInto(walk: Walk, dir: Descriptor, inner: string, levels: number, recursive: boolean) {
  for (const row of await sortedRows(walk, dir, inner)) {
    if (walk.entries.length >= MAX_ENTRIES) {
      walk.truncated = true;
      return;
    }
    await walk.pause();
    const rowInner = inner === "" ? row.name : `${inner}/${row.name}`;
    const status = statusOf(walk.space, dir, row, rowInner);
    if (status === null) continue;
    walk.entries.push({
      name: row.name,
      path: `workspace/${rowInner}`,
      is_dir: status.kind === "directory",
      size_bytes: status.kind === "directory" ? null : status.size,
      modified_at: isoTime(status.modifiedNs),
    });
    if (!recursive || row.isLink || status.kind !== "directory") continue;
    using child = openChild(dir, row.raw);
    if (child === null) continue;
    if (levels > 1) await listInto(walk, child, rowInner, levels - 1, recursive);
    else walk.truncated ||= !isEmptyDirectory(child.fd);
  }
}

/** The first rows that still fit, in order, however many entries the directory has. */
async function sortedRows(walk: Walk, dir: Descriptor, inner: string): Promise<Row[]> {
  // One more than fits tells that the listing is cut.
  const keep = MAX_ENTRIES - walk.entries.length + 1;
  let rows: Row[] = [];
  for (const batch of readDirectory(dir.fd)) {
    for (const entry of batch) {
      rows.push(rowOf(walk.space, dir, inner, entry));
      await walk.pause();
    }
    if (rows.length > 4 * keep) rows = rows.sort(order).slice(0, keep);
  }
  return rows.sort(order).slice(0, keep);
}

function order(a: Row, b: Row): number {
  if (a.isDir !== b.isDir) return a.isDir ? -1 : 1;
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}

const utf8 = new TextDecoder();

function rowOf(space: Space, dir: Descriptor, inner: string, entry: Entry): Row {
  const name = utf8.decode(entry.name);
  const kind =
    entry.kind === "unknown" ? (absentAsNull(() => statAt(dir.fd, entry.name))?.kind ?? "other") : entry.kind;
  const isLink = kind === "link";
  const isDir = isLink
    ? pointedTo(space, inner === "" ? name : `${inner}/${name}`)?.kind === "directory"
    : kind === "directory";
  return { name, raw: entry.name, isDir, isLink };
}

/** null when the entry is gone by now. */
function statusOf(space: Space, dir: Descriptor, row: Row, inner: string): FileStatus | null {
  const pointed = row.isLink ? pointedTo(space, inner) : null;
  return pointed ?? absentAsNull(() => statAt(dir.fd, row.raw));
}

/** What a link points to; null when that is outside, absent, or a loop. */
function pointedTo(space: Space, inner: string): FileStatus | null {
  try {
    using target = openInside(space.live, inner, O_PATH, lookups(LINK_LOOKUPS));
    return statFd(target.fd);
  } catch (error) {
    if (codeOf(error) === undefined) throw error;
    return null;
  }
}

function openChild(dir: Descriptor, name: Uint8Array): Descriptor | null {
  return absentAsNull(() => new Descriptor(openBeneath(dir.fd, name, OPEN_DIRECTORY | O_NOFOLLOW)));
}

/** For what may have been removed or replaced since its directory was read. */
function absentAsNull<T>(look: () => T): T | null {
  try {
    return look();
  } catch (error) {
    const code = codeOf(error);
    if (code === "ENOENT" || code === "ENOTDIR" || code === "ELOOP") return null;
    throw error;
  }
}

function openListed(space: Space, path: WorkspacePath): Descriptor {
  try {
    return openInside(space.live, path.inner, OPEN_DIRECTORY);
  } catch (error) {
    if (codeOf(error) !== "ENOTDIR") throw error;
    // Either this is a file, or something above it is.
    using _ = openInside(space.live, path.inner, O_PATH);
    throw new AppError("bad_input", `${path.text} is not a directory; read it as a file.`, { cause: error });
  }
}
