import { nextData, readCached } from "../../kernel/file-data.ts";
import { openContent } from "../../snapshots/read.ts";
import type { Found } from "../../snapshots/walk.ts";
import { readAt } from "../../volumes/disk.ts";
import type { Pause } from "../../volumes/pause.ts";

const BLOCK = 16 * 1024;
const PIECE = 64 * BLOCK;
const ZEROS = Buffer.alloc(BLOCK);
/** A smaller one is read as soon as it is looked up. */
const REMEMBERED_FROM = 32 * 1024;

/** What a file holds. */
export interface Content {
  readonly size: number;
  /** Of all of it but the blocks that are left out. */
  readonly sha256: string;
  /** Which blocks those are: a line `first-last` for each row of them. null: none. */
  readonly zeros: string | null;
}

export type Digest = ReturnType<typeof createDigest>;

/**
 * Sums up files. A run may leave terabytes that are nothing but holes, and a hundred thousand names of one large file: a
 * block of 16 KiB that is all zeros, on the disk or not, is not hashed, and a file with more names is read once.
 */
export function createDigest(pause: Pause) {
  const buffer = Buffer.allocUnsafeSlow(PIECE);
  const known = new Map<bigint, Content>();

  /** null when it is no file any more. */
  return async ({
    dirFd,
    name,
    shared,
  }: Pick<Found, "dirFd" | "name" | "shared">): Promise<Content | null> => {
    const before = shared === null ? undefined : known.get(shared);
    if (before !== undefined) return before;
    using file = openContent(dirFd, name);
    if (file === null) return null;
    const content = await contentOf(file.fd, file.look.size, { buffer, pause });
    if (shared !== null && content.size >= REMEMBERED_FROM) known.set(shared, content);
    return content;
  };
}

interface Reading {
  readonly buffer: Buffer;
  readonly pause: Pause;
}

/** What grows meanwhile is read as far as it went at first. */
async function contentOf(fd: number, size: number, { buffer, pause }: Reading): Promise<Content> {
  const data = new Bun.CryptoHasher("sha256");
  const rows = createRows();
  let at = 0;
  let end = size;
  while (at < end) {
    await pause();
    const next = nextData(fd, at);
    const hole = Math.min(end, next?.start ?? end);
    // What is no whole block is data, whatever it holds.
    const from = Math.max(at, hole - (hole % BLOCK));
    if (from > at) rows.add(at / BLOCK, from / BLOCK);
    at = from;
    const until = Math.min(end, next === null ? end : Math.ceil(next.end / BLOCK) * BLOCK);
    while (at < until) {
      await pause();
      const length = await fill(fd, buffer, Math.min(PIECE, until - at), at);
      if (length === 0) break;
      for (let block = 0; block < length; block += BLOCK) {
        const bytes = buffer.subarray(block, Math.min(length, block + BLOCK));
        if (bytes.equals(ZEROS)) rows.add((at + block) / BLOCK, (at + block) / BLOCK + 1);
        else data.update(bytes);
      }
      at += length;
    }
    if (at < until) end = at;
  }
  return { size: end, sha256: data.digest("hex"), zeros: rows.digest() };
}

/** How much of it there is: less than asked for only at the file's end. */
async function fill(fd: number, buffer: Buffer, length: number, position: number): Promise<number> {
  let have = 0;
  while (have < length) {
    const [left, at] = [length - have, position + have];
    const count = readCached(fd, buffer, have, left, at) ?? (await readAt(fd, buffer, have, left, at));
    if (count === 0) break;
    have += count;
  }
  return have;
}

/** Which blocks are left out, in rows. */
function createRows() {
  const hash = new Bun.CryptoHasher("sha256");
  let row: { readonly first: number; end: number } | null = null;
  let some = false;

  function close(): void {
    if (row !== null) hash.update(`${row.first}-${row.end - 1}\n`);
    row = null;
  }

  return {
    add(first: number, end: number): void {
      some = true;
      if (row?.end === first) row.end = end;
      else {
        close();
        row = { first, end };
      }
    },
    digest(): string | null {
      close();
      return some ? hash.digest("hex") : null;
    },
  };
}
