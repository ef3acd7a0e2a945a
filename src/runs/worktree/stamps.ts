import { readFile, rename, writeFile } from "node:fs/promises";
import { codeOf } from "../../errors.ts";
import type { Time } from "../../kernel/look.ts";
import { walk } from "../../snapshots/walk.ts";
import type { Descriptor } from "../../volumes/descriptor.ts";
import { createPause } from "../../volumes/pause.ts";
import { STAMPS } from "./place.ts";

/*
 * Which files a worktree was made with: inode and ctime of each, in its manifest's order, of a file with more names once.
 * A file that still has both was not touched since, which no tenant can fake as it can an mtime; so only what differs
 * is compared with what it was.
 */

/** Inode, seconds, nanoseconds. */
const STAMP_BYTES = 20;
const PIECE = STAMP_BYTES * 8192;
/** A tick of the kernel's clock, at its slowest: a change from then on has another ctime. */
const TICKS_MS = 10;

export interface Stamp {
  /** Exact up to 2^53. */
  readonly inode: number;
  readonly ctime: Time;
}

/** Of a tree that was just built, and that nobody else has yet. `own` is the run's directory. */
export async function writeStamps(own: Descriptor, work: Descriptor): Promise<void> {
  const pause = createPause();
  const pieces: Buffer[] = [];
  const seen = new Set<bigint>();
  let piece = Buffer.alloc(PIECE);
  let used = 0;
  let last = 0;
  for (const found of walk(work)) {
    await pause();
    if (found === null || found.kind !== "file") continue;
    if (found.shared !== null) {
      if (seen.has(found.shared)) continue;
      seen.add(found.shared);
    }
    if (used === PIECE) {
      pieces.push(piece);
      piece = Buffer.alloc(PIECE);
      used = 0;
    }
    piece.writeBigUInt64LE(BigInt(found.inode), used);
    piece.writeBigInt64LE(BigInt(found.ctime[0]), used + 8);
    piece.writeUInt32LE(found.ctime[1], used + 16);
    used += STAMP_BYTES;
    last = Math.max(last, found.ctime[0] * 1000 + found.ctime[1] / 1e6);
  }
  pieces.push(piece.subarray(0, used));
  await writeFile(own.entry(`${STAMPS}.new`), Buffer.concat(pieces), { mode: 0o600 });
  await rename(own.entry(`${STAMPS}.new`), own.entry(STAMPS));
  const early = last + TICKS_MS - Date.now();
  if (early > 0) await Bun.sleep(Math.min(early, TICKS_MS));
}

/** The stamps, one after the other; null from where there are none. */
export async function readStamps(own: Descriptor): Promise<() => Stamp | null> {
  let bytes: Buffer;
  try {
    bytes = await readFile(own.entry(STAMPS));
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
    bytes = Buffer.alloc(0);
  }
  let at = 0;
  return () => {
    if (at + STAMP_BYTES > bytes.length) return null;
    const stamp: Stamp = {
      inode: Number(bytes.readBigUInt64LE(at)),
      ctime: [Number(bytes.readBigInt64LE(at + 8)), bytes.readUInt32LE(at + 16)],
    };
    at += STAMP_BYTES;
    return stamp;
  };
}
