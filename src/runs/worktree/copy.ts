import { ftruncateSync } from "node:fs";
import { codeOf } from "../../errors.ts";
import { cloneFile, nextData, readCached } from "../../kernel/file-data.ts";
import { lookFd, type Look } from "../../kernel/look.ts";
import { readAt, writeAt } from "../../volumes/disk.ts";

/** What is smaller is copied as quickly as it is cloned. */
const CLONED_FROM = 64 * 1024;
const PIECE = 1024 * 1024;
const FREE_BUFFERS = 8;

/**
 * Copies files: where the file system can, by sharing what they hold, else piece by piece on Bun's threads, holes left
 * out.
 */
export function createCopier() {
  const free: Buffer[] = [];
  /** Until the first that could not be. */
  let clones = true;

  /** Where the last data ended. */
  async function copyData(from: number, to: number, size: number): Promise<number> {
    const buffer = free.pop() ?? Buffer.allocUnsafeSlow(PIECE);
    try {
      let at = 0;
      while (at < size) {
        const data = nextData(from, at);
        if (data === null || data.start >= size) return at;
        at = data.start;
        const end = Math.min(data.end, size);
        while (at < end) {
          const length = Math.min(PIECE, end - at);
          const count =
            readCached(from, buffer, 0, length, at) ?? (await readAt(from, buffer, 0, length, at));
          // Cut short meanwhile.
          if (count === 0) return at;
          await writeAt(to, buffer.subarray(0, count), at);
          at += count;
        }
      }
      return at;
    } finally {
      if (free.length < FREE_BUFFERS) free.push(buffer);
    }
  }

  return {
    /** Fills the empty file `to`. False when `from` was not what `look` says all the time. */
    async copy(from: number, look: Pick<Look, "size" | "ctime">, to: number): Promise<boolean> {
      const cloned = clones && look.size >= CLONED_FROM && cloneFile(from, to);
      if (!cloned) {
        if (look.size >= CLONED_FROM) clones = false;
        if ((await copyData(from, to, look.size)) < look.size) ftruncateSync(to, look.size);
      }
      return isStill(from, look);
    },
  };
}

function isStill(fd: number, { size, ctime }: Pick<Look, "size" | "ctime">): boolean {
  const now = lookFd(fd);
  return now.size === size && now.ctime[0] === ctime[0] && now.ctime[1] === ctime[1];
}

/** What a name that somebody else changes may be by now: nothing, a link, another kind of thing. */
export function isGone(error: unknown): boolean {
  return GONE.has(codeOf(error) ?? "");
}

const GONE: ReadonlySet<string> = new Set(["ENOENT", "ENOTDIR", "ELOOP", "ENXIO", "ENODEV", "EXDEV"]);
