import { readCached } from "../../kernel/file-data.ts";
import { nameJson } from "../../snapshots/manifest.ts";
import { openContent } from "../../snapshots/read.ts";
import type { Found } from "../../snapshots/walk.ts";
import { readAt } from "../../volumes/disk.ts";
import type { Pause } from "../../volumes/pause.ts";
import { targetOf, type Change } from "./compare.ts";

const PIECE = 1024 * 1024;

/** What a run left, in a few words. */
export interface Result {
  /** Over a line for each path that is not as the run found it; with the base's hash it says what the worktree was. */
  readonly hash: string;
  readonly changes: number;
  /** FIFOs, sockets and devices, which nothing takes along. */
  readonly skipped: number;
}

/**
 * Sums up what has changed in a worktree. Each line is a JSON array: the names of the path, then null where it is gone, or
 * what is there: "directory" and its mode, "symlink" and its target, "file" with its mode, size and SHA-256.
 */
export async function resultOf(changes: AsyncGenerator<Change, void>, pause: Pause): Promise<Result> {
  const hash = new Bun.CryptoHasher("sha256");
  const counted = { changes: 0, skipped: 0 };
  const digest = createDigest(pause);
  for await (const { path, after } of changes) {
    if (after?.kind === "other") {
      counted.skipped += 1;
      continue;
    }
    counted.changes += 1;
    const names = `[${path.map(nameJson).join(",")}]`;
    hash.update(`[${names},${after === null ? "null" : await said(after, digest)}]\n`);
  }
  return { hash: `sha256:${hash.digest("hex")}`, ...counted };
}

async function said(after: Found, digest: Digest): Promise<string> {
  switch (after.kind) {
    case "directory":
      return `"directory",${after.mode}`;
    case "link": {
      const target = targetOf(after.dirFd, after.name);
      return target === null ? "null" : `"symlink",${nameJson(target)}`;
    }
    case "file": {
      const content = await digest(after.dirFd, after.name);
      return content === null ? "null" : `"file",${after.mode},${content.size},"${content.sha256}"`;
    }
    case "other":
      return "null";
    default:
      return after.kind satisfies never;
  }
}

type Digest = ReturnType<typeof createDigest>;

function createDigest(pause: Pause) {
  const buffer = Buffer.allocUnsafeSlow(PIECE);

  /** null when it is no file any more. */
  return async (dirFd: number, name: Uint8Array) => {
    using file = openContent(dirFd, name);
    if (file === null) return null;
    const { fd, look } = file;
    const hash = new Bun.CryptoHasher("sha256");
    let size = 0;
    // What grows meanwhile is read as far as it went at first.
    while (size < look.size) {
      await pause();
      const length = Math.min(PIECE, look.size - size);
      const count = readCached(fd, buffer, 0, length, size) ?? (await readAt(fd, buffer, 0, length, size));
      if (count === 0) break;
      hash.update(buffer.subarray(0, count));
      size += count;
    }
    return { size, sha256: hash.digest("hex") };
  };
}
