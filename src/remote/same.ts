import type { SealedBlobs } from "../blobs/sealed.ts";
import { readLinkAt } from "../kernel/directory.ts";
import { nextData } from "../kernel/file-data.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import type { Time } from "../kernel/look.ts";
import { createBlobReader } from "../snapshots/reader.ts";
import type { Entry, Extent, FileEntry } from "../snapshots/manifest.ts";
import type { Found } from "../snapshots/walk.ts";
import { Descriptor } from "../volumes/descriptor.ts";
import { readAt } from "../volumes/disk.ts";
import { Differs, inStep } from "./step.ts";

/** Later than this before a manifest was begun, a file's times may not show its last change: clocks tick. */
const TICKS_S = 2;
const HOLE_BUFFER_BYTES = 64 * 1024;

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

interface Compared extends Disposable {
  has(extents: readonly Extent[]): Promise<boolean>;
  /** Whether nothing is behind what was compared. */
  ended(): Promise<boolean>;
}

function compared(reader: ReturnType<typeof createBlobReader>, entry: FileEntry, found: Found): Compared {
  const file = new Descriptor(
    openBeneath(found.dirFd, found.name, constants.O_RDONLY | constants.O_NOFOLLOW),
  );
  let end = 0;
  return {
    async has(extents) {
      for await (const { position, bytes } of reader.data(extents)) {
        if (!(await isHole(file.fd, end, position))) return false;
        const there = Buffer.alloc(bytes.length);
        for (let have = 0; have < there.length;) {
          const count = await readAt(file.fd, there, have, there.length - have, position + have);
          if (count === 0) return false;
          have += count;
        }
        if (!there.equals(bytes)) return false;
        end = position + bytes.length;
      }
      return true;
    },
    ended: async () => isHole(file.fd, end, entry.size),
    [Symbol.dispose]: () => file[Symbol.dispose](),
  };
}

/** Whether it reads as zeros. */
async function isHole(fd: number, from: number, to: number): Promise<boolean> {
  const buffer = Buffer.alloc(Math.min(HOLE_BUFFER_BYTES, to - from));
  for (let at = from; at < to;) {
    const data = nextData(fd, at);
    if (data === null || data.start >= to) return true;
    at = data.start;
    const count = await readAt(fd, buffer, 0, Math.min(buffer.length, Math.min(data.end, to) - at), at);
    if (count === 0 || buffer.subarray(0, count).some((byte) => byte !== 0)) return false;
    at += count;
  }
  return true;
}
