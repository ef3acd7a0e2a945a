import { codeOf } from "../errors.ts";
import { readDirectory, statAt, type FileStatus } from "../kernel/directory.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import { walk as walkTree } from "../snapshots/walk.ts";
import { OPEN_DIRECTORY } from "./beneath.ts";
import { Descriptor } from "./descriptor.ts";
import { createPause, type Pause } from "./pause.ts";
import type { Space } from "./space.ts";

/** Each of these levels of a walk holds a descriptor; what lies deeper is walked with few, and more slowly. */
const MAX_LEVELS = 256;
/** What the file system may take for an entry besides its bytes before that counts too. */
const SLACK_BYTES = 1024 * 1024;

export interface Usage {
  /** See chargeOf; a file with several names counts once. */
  readonly bytes: number;
  /** All that is no directory. */
  readonly files: number;
  readonly directories: number;
}

/** Bytes, and files and directories together. */
export interface Amount {
  readonly bytes: number;
  readonly entries: number;
}

export interface Count extends Usage {
  /** False when the walk stopped at `most`. */
  readonly whole: boolean;
}

/**
 * What an entry counts with: its size, so that holes count as what may yet be written there. What takes far more of the
 * disk than its size (blocks beyond a file's end, a directory that had a million entries once) counts with that.
 */
export function chargeOf({
  kind,
  size,
  diskBytes,
}: Pick<FileStatus, "size" | "diskBytes"> & { readonly kind: string }): number {
  const bytes = kind === "file" ? size : 0;
  return diskBytes > bytes + SLACK_BYTES ? diskBytes : bytes;
}

interface Walk {
  bytes: number;
  files: number;
  directories: number;
  readonly linked: Set<bigint>;
  readonly most: Amount;
  readonly pause: Pause;
}

const ALL: Amount = { bytes: Infinity, entries: Infinity };

/** Counts what is in a workspace, in slices that leave the event loop to others, until there is more than `most`. */
export async function usageOf(space: Pick<Space, "live">, most: Amount = ALL): Promise<Count> {
  const walk: Walk = { bytes: 0, files: 0, directories: 0, linked: new Set(), most, pause: createPause() };
  using root = new Descriptor(openBeneath(space.live.fd, ".", OPEN_DIRECTORY));
  const whole = await countInto(walk, root, MAX_LEVELS);
  return { bytes: walk.bytes, files: walk.files, directories: walk.directories, whole };
}

/** False when there is enough. */
async function countInto(walk: Walk, dir: Descriptor, levels: number): Promise<boolean> {
  for (const batch of readDirectory(dir.fd)) {
    for (const entry of batch) {
      await walk.pause();
      if (hasEnough(walk)) return false;
      try {
        if (!(await countEntry(walk, dir, entry.name, levels))) return false;
      } catch (error) {
        // Removed or replaced since its directory was read.
        if (!["ENOENT", "ENOTDIR", "ELOOP"].includes(codeOf(error) ?? "")) throw error;
      }
    }
  }
  return true;
}

async function countEntry(walk: Walk, dir: Descriptor, name: Uint8Array, levels: number): Promise<boolean> {
  const status = statAt(dir.fd, name);
  add(walk, status, status.links > 1n ? status.inode : null);
  if (status.kind !== "directory") return true;
  using child = new Descriptor(openBeneath(dir.fd, name, OPEN_DIRECTORY | constants.O_NOFOLLOW));
  return await (levels === 0 ? countDeep(walk, child) : countInto(walk, child, levels - 1));
}

/** Where a command moves directories at this depth, others there may be missed until it has ended. */
async function countDeep(walk: Walk, dir: Descriptor): Promise<boolean> {
  for (const found of walkTree(dir)) {
    await walk.pause();
    if (hasEnough(walk)) return false;
    if (found !== null) add(walk, { ...found, diskBytes: found.allocatedBytes }, found.shared);
  }
  return true;
}

/** `shared` is the inode of what may have several names. */
function add(walk: Walk, status: Parameters<typeof chargeOf>[0], shared: bigint | null): void {
  if (status.kind === "directory") walk.directories++;
  else {
    walk.files++;
    if (shared !== null && walk.linked.has(shared)) return;
    if (shared !== null) walk.linked.add(shared);
  }
  walk.bytes += chargeOf(status);
}

function hasEnough({ bytes, files, directories, most }: Walk): boolean {
  return bytes > most.bytes || files + directories > most.entries;
}
