import { nextData } from "../kernel/file-data.ts";
import { readAt } from "../volumes/disk.ts";
import type { Extent } from "./manifest.ts";
import type { BlobReader } from "./reader.ts";

const HOLE_BUFFER_BYTES = 64 * 1024;

export interface Comparison {
  /** Whether the file holds this data, and reads as zeros since the data before. In the order of positions. */
  has(extents: readonly Extent[]): Promise<boolean>;
  /** Whether nothing is behind what was compared. */
  ended(): Promise<boolean>;
}

/** An open file of `size` bytes beside what a manifest says that it holds. */
export function compareContent(reader: BlobReader, fd: number, size: number): Comparison {
  let end = 0;
  return {
    async has(extents) {
      for await (const { position, bytes } of reader.data(extents)) {
        if (!(await isHole(fd, end, position))) return false;
        const there = Buffer.alloc(bytes.length);
        for (let have = 0; have < there.length;) {
          const count = await readAt(fd, there, have, there.length - have, position + have);
          if (count === 0) return false;
          have += count;
        }
        if (!there.equals(bytes)) return false;
        end = position + bytes.length;
      }
      return true;
    },
    ended: async () => isHole(fd, end, size),
  };
}

/** Whether it reads as zeros. */
async function isHole(fd: number, from: number, to: number): Promise<boolean> {
  const buffer = Buffer.alloc(Math.min(HOLE_BUFFER_BYTES, Math.max(0, to - from)));
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
