import { readDirectory, statAt } from "../kernel/directory.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import { OPEN_DIRECTORY } from "./beneath.ts";
import { Descriptor } from "./descriptor.ts";
import { codeOf } from "./failure.ts";
import { createPause, type Pause } from "./pause.ts";
import type { Space } from "./space.ts";

/** Each level of a walk holds a descriptor. What a tenant hides deeper is not counted, and still costs it its disk. */
const MAX_LEVELS = 256;

export interface Usage {
  /** Sum of the files' sizes; a file with several names counts once. */
  readonly bytes: number;
  /** All that is no directory. */
  readonly files: number;
  readonly directories: number;
}

interface Count {
  bytes: number;
  files: number;
  directories: number;
  readonly linked: Set<bigint>;
  readonly pause: Pause;
}

/** Counts what is in a workspace, in slices that leave the event loop to others. */
export async function usageOf(space: Space): Promise<Usage> {
  const count: Count = { bytes: 0, files: 0, directories: 0, linked: new Set(), pause: createPause() };
  using root = new Descriptor(openBeneath(space.live.fd, ".", OPEN_DIRECTORY));
  await countInto(count, root, MAX_LEVELS);
  return { bytes: count.bytes, files: count.files, directories: count.directories };
}

async function countInto(count: Count, dir: Descriptor, levels: number): Promise<void> {
  for (const batch of readDirectory(dir.fd)) {
    for (const entry of batch) {
      await count.pause();
      try {
        await countEntry(count, dir, entry.name, levels);
      } catch (error) {
        // Removed or replaced since its directory was read.
        if (!["ENOENT", "ENOTDIR", "ELOOP"].includes(codeOf(error) ?? "")) throw error;
      }
    }
  }
}

async function countEntry(count: Count, dir: Descriptor, name: Uint8Array, levels: number): Promise<void> {
  const status = statAt(dir.fd, name);
  if (status.kind === "directory") {
    count.directories++;
    if (levels === 0) return;
    using child = new Descriptor(openBeneath(dir.fd, name, OPEN_DIRECTORY | constants.O_NOFOLLOW));
    await countInto(count, child, levels - 1);
    return;
  }
  count.files++;
  if (status.kind !== "file") return;
  if (status.links > 1n) {
    if (count.linked.has(status.inode)) return;
    count.linked.add(status.inode);
  }
  count.bytes += status.size;
}
