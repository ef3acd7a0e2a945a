import type { Time } from "../kernel/look.ts";

/*
 * Headers of a tar archive as GNU tar writes and all readers of today know them: names are bytes, of any length; files
 * with holes are of type S; fractions of a second are in a pax header, the one thing that GNU's own format can't say.
 */

export const BLOCK = 512;
/** Files in the archive belong to the tenant's uid, which is nobody's elsewhere. */
const OWNER = 10_000;
const NAME_BYTES = 100;
/** What eleven octal digits hold. */
const MAX_OCTAL = 0o77777777777;
const SPARSE_IN_HEADER = 4;
const SPARSE_IN_BLOCK = 21;

export type Range = readonly [position: number, length: number];

export type TarEntry = {
  readonly path: Uint8Array;
  /** Permissions. Anything else in it would be an offer to whoever unpacks as root. */
  readonly mode: number;
  readonly mtime: Time;
} & (
  | { readonly type: "dir" }
  | { readonly type: "symlink" | "link"; readonly target: Uint8Array }
  /** `ranges`: where its data is, in order; null when it is everywhere. */
  | { readonly type: "file"; readonly size: number; readonly ranges: readonly Range[] | null }
);

/** All that stands before an entry's data. */
export function tarHeader(entry: TarEntry): Uint8Array[] {
  const blocks: Uint8Array[] = [];
  const mtime = paxTime(entry.mtime);
  if (mtime !== null) blocks.push(...extra("x", record("mtime", mtime)));
  const path = entry.type === "dir" ? Buffer.concat([entry.path, SLASH]) : entry.path;
  const target = "target" in entry ? entry.target : EMPTY;
  if (target.length > NAME_BYTES) blocks.push(...extra("K", Buffer.concat([target, NUL])));
  if (path.length > NAME_BYTES) blocks.push(...extra("L", Buffer.concat([path, NUL])));

  const ranges = entry.type === "file" ? entry.ranges : null;
  const block = header({
    path,
    target,
    mode: entry.mode & 0o777,
    mtime: Math.min(Math.max(entry.mtime[0], 0), MAX_OCTAL),
    size: entry.type === "file" ? storedBytes(entry) : 0,
    type: ranges === null ? TYPES[entry.type] : "S",
  });
  const more = ranges === null || entry.type !== "file" ? [] : addRanges(block, ranges, entry.size);
  seal(block);
  return [...blocks, block, ...more];
}

/** What follows the header, without the padding. */
export function storedBytes(file: {
  readonly size: number;
  readonly ranges: readonly Range[] | null;
}): number {
  return file.ranges === null ? file.size : file.ranges.reduce((sum, [, length]) => sum + length, 0);
}

/** To the end of the last block. */
export function padding(bytes: number): Uint8Array {
  return ZEROS.subarray(0, (BLOCK - (bytes % BLOCK)) % BLOCK);
}

/** The end of an archive. */
export const TAR_END: Uint8Array = new Uint8Array(2 * BLOCK);

const TYPES = { file: "0", link: "1", symlink: "2", dir: "5" } as const;
const SLASH = Buffer.from("/");
const NUL = Buffer.from([0]);
const EMPTY = Buffer.alloc(0);
const ZEROS = new Uint8Array(BLOCK);

interface Fields {
  readonly path: Uint8Array;
  readonly target: Uint8Array;
  readonly mode: number;
  readonly mtime: number;
  readonly size: number;
  readonly type: string;
}

function header({ path, target, mode, mtime, size, type }: Fields): Buffer {
  const block = Buffer.alloc(BLOCK);
  block.set(path.subarray(0, NAME_BYTES), 0);
  block.write(octal(mode, 7), 100);
  block.write(octal(OWNER, 7), 108);
  block.write(octal(OWNER, 7), 116);
  number(block, 124, size);
  number(block, 136, mtime);
  block.write(type, 156);
  block.set(target.subarray(0, NAME_BYTES), 157);
  block.write("ustar  \0", 257);
  return block;
}

/** The checksum is over the block with spaces in its place. */
function seal(block: Buffer): void {
  block.fill(" ", 148, 156);
  // With a callback for each byte it would be what an archive of small files takes longest for.
  let sum = 0;
  for (let at = 0; at < BLOCK; at++) sum += block[at] ?? 0;
  block.write(`${octal(sum, 6)}\0 `, 148);
}

/** Old GNU's map of a file with holes: four ranges in the header, the others in blocks behind it. */
function addRanges(block: Buffer, ranges: readonly Range[], size: number): Buffer[] {
  // A hole at the end is a range of nothing there.
  const all: Range[] = [...ranges];
  const last = all.at(-1);
  if (last === undefined || last[0] + last[1] < size) all.push([size, 0]);
  putRanges(block, 386, all.slice(0, SPARSE_IN_HEADER));
  block[482] = Number(all.length > SPARSE_IN_HEADER);
  number(block, 483, size);
  const blocks: Buffer[] = [];
  for (let at = SPARSE_IN_HEADER; at < all.length; at += SPARSE_IN_BLOCK) {
    const next = Buffer.alloc(BLOCK);
    putRanges(next, 0, all.slice(at, at + SPARSE_IN_BLOCK));
    next[SPARSE_IN_BLOCK * 24] = Number(all.length > at + SPARSE_IN_BLOCK);
    blocks.push(next);
  }
  return blocks;
}

function putRanges(block: Buffer, at: number, ranges: readonly Range[]): void {
  for (const [index, [position, length]] of ranges.entries()) {
    number(block, at + index * 24, position);
    number(block, at + index * 24 + 12, length);
  }
}

/** An entry that says more of the next one. */
function extra(type: "x" | "L" | "K", content: Uint8Array): Uint8Array[] {
  const path = Buffer.from("././@LongLink");
  const block = header({ path, target: EMPTY, mode: 0o644, mtime: 0, size: content.length, type });
  seal(block);
  return [block, content, padding(content.length)];
}

/** `LENGTH NAME=VALUE`, with a length that counts itself. */
function record(name: string, value: string): Buffer {
  const rest = ` ${name}=${value}\n`;
  let length = rest.length;
  while (String(length).length + rest.length > length) length = String(length).length + rest.length;
  return Buffer.from(`${length}${rest}`);
}

/** null for what the header itself can say. */
function paxTime([seconds, nanoseconds]: Time): string | null {
  if (nanoseconds === 0 && seconds >= 0 && seconds <= MAX_OCTAL) return null;
  // 1.5 s before 1970 is two seconds before, and half a second.
  const before = seconds < 0 && nanoseconds > 0;
  const fraction = String(before ? 1_000_000_000 - nanoseconds : nanoseconds).padStart(9, "0");
  const whole = before ? seconds + 1 : seconds;
  return `${before && whole === 0 ? "-" : ""}${whole}.${fraction}`;
}

function octal(value: number, digits: number): string {
  return value.toString(8).padStart(digits, "0");
}

/** Twelve bytes: octal, or what is too large for that in binary. */
function number(block: Buffer, at: number, value: number): void {
  if (value <= MAX_OCTAL) {
    block.write(octal(value, 11), at);
    return;
  }
  block[at] = 0x80;
  block.writeBigUInt64BE(BigInt(value), at + 4);
}
