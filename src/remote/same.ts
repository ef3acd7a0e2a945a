import type { SealedBlobs } from "../blobs/sealed.ts";
import { readLinkAt } from "../kernel/directory.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import type { Time } from "../kernel/look.ts";
import { compareContent, type Comparison } from "../snapshots/comparison.ts";
import { createBlobReader } from "../snapshots/reader.ts";
import type { Entry, FileEntry } from "../snapshots/manifest.ts";
import type { Found } from "../snapshots/walk.ts";
import { Descriptor } from "../volumes/descriptor.ts";
import { Differs, inStep } from "./step.ts";

/** Later than this before a manifest was begun, a file's times may not show its last change: clocks tick. */
const TICKS_S = 2;

export interface SameParts {
  readonly blobs: Pick<SealedBlobs, "get">;
  readonly live: Descriptor;
  readonly manifest: AsyncIterable<readonly Entry[]>;
  /** Milliseconds since 1970. */
  readonly started: number;
}

/**
 * Whether the directory holds exactly what the manifest says, which was written by this host. Files that changed just
 * before it was begun are compared byte by byte; of all others inode, time and size tell.
 */
export async function isSame({ blobs, live, manifest, started }: SameParts): Promise<boolean> {
  const reader = createBlobReader(blobs);
  const settled = started / 1000 - TICKS_S;
  const numbers = new Map<number, number>();
  /** Of a file whose content is compared. */
  let open: Compared | null = null;
  try {
    for await (const step of inStep(live, manifest)) {
      if ("type" in step) {
        if (open !== null && !(await open.has(step.data))) return false;
        continue;
      }
      if (open !== null && !(await open.ended())) return false;
      open?.[Symbol.dispose]();
      open = null;
      const { entry, found } = step;
      if (entry.type === "file") {
        if (!sameFile(entry, found)) return false;
        if (entry.link !== undefined) numbers.set(entry.link, found.inode);
        if (found.ctime[0] < settled) continue;
        open = compared(reader, entry, found);
        if (!(await open.has(entry.data))) return false;
      } else if (!sameOther(entry, found, numbers)) {
        return false;
      }
    }
    return open === null || (await open.ended());
  } catch (error) {
    if (error instanceof Differs) return false;
    throw error;
  } finally {
    open?.[Symbol.dispose]();
  }
}

function sameFile(entry: FileEntry, { inode, size, ctime, mode }: Found): boolean {
  return entry.inode === inode && entry.size === size && entry.mode === mode && sameTime(entry.ctime, ctime);
}

function sameOther(
  entry: Exclude<Entry, FileEntry | { type: "more" }>,
  found: Found,
  numbers: ReadonlyMap<number, number>,
): boolean {
  if (entry.type === "dir") return entry.mode === found.mode;
  if (entry.type === "link") return numbers.get(entry.first) === found.inode;
  const target = readLinkAt(found.dirFd, found.name);
  return sameTime(entry.mtime, found.mtime) && Buffer.compare(target, entry.target) === 0;
}

function sameTime(a: Time, b: Time): boolean {
  return a[0] === b[0] && a[1] === b[1];
}

interface Compared extends Disposable, Comparison {}

function compared(reader: ReturnType<typeof createBlobReader>, entry: FileEntry, found: Found): Compared {
  const file = new Descriptor(
    openBeneath(found.dirFd, found.name, constants.O_RDONLY | constants.O_NOFOLLOW),
  );
  const comparison = compareContent(reader, file.fd, entry.size);
  return { ...comparison, [Symbol.dispose]: () => file[Symbol.dispose]() };
}
