import { nameJson } from "../../snapshots/manifest.ts";
import type { Found } from "../../snapshots/walk.ts";
import type { Pause } from "../../volumes/pause.ts";
import { targetOf, type Change } from "./compare.ts";
import { createDigest, type Digest } from "./digest.ts";

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
 * what is there: "directory" and its mode, "symlink" and its target, "file" with its mode, size and SHA-256, or "sparse" with also which of
 * its blocks are all zeros.
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
      const content = await digest(after);
      if (content === null) return "null";
      const { size, sha256, zeros } = content;
      return zeros === null
        ? `"file",${after.mode},${size},"${sha256}"`
        : `"sparse",${after.mode},${size},"${sha256}","${zeros}"`;
    }
    case "other":
      return "null";
    default:
      return after.kind satisfies never;
  }
}
