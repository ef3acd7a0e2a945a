import { readDirectory, statAt, type FileStatus } from "../kernel/directory.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import { OPEN_DIRECTORY } from "./beneath.ts";
import { Descriptor } from "./descriptor.ts";
import { codeOf } from "./failure.ts";
import { createPause, type Pause } from "./pause.ts";
import type { Space } from "./space.ts";

/** Each level of a walk holds a descriptor. What a tenant hides deeper is not counted, and still costs it its disk. */
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
export function chargeOf({ kind, size, diskBytes }: Pick<FileStatus, "kind" | "size" | "diskBytes">): number {
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
export async function usageOf(space: Space, most: Amount = ALL): Promise<Count> {
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
      if (walk.bytes > walk.most.bytes || walk.files + walk.directories > walk.most.entries) return false;
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
  if (status.kind === "directory") {
    walk.directories++;
    walk.bytes += chargeOf(status);
    if (levels === 0) return true;
    using child = new Descriptor(openBeneath(dir.fd, name, OPEN_DIRECTORY | constants.O_NOFOLLOW));
    return await countInto(walk, child, levels - 1);
  }
  walk.files++;
  if (status.links > 1n) {
    if (walk.linked.has(status.inode)) return true;
    walk.linked.add(status.inode);
  }
  walk.bytes += chargeOf(status);
  return true;
}
