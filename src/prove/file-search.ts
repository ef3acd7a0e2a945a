import { constants, type FileHandle, open } from "node:fs/promises";
import { runCommand } from "../sandboxd/runner.ts";

const PIECE = 1024 * 1024;
const TIMEOUT_MS = 45_000;
const MAX_LISTING_BYTES = 256 * 1024 * 1024;

/** Which files hold each text, of those whose content or name has changed since then. */
export async function searchFiles(
  paths: readonly string[],
  since: number,
  texts: readonly string[],
): Promise<{ readonly found: readonly string[][]; readonly count: number }> {
  // A file's change time can't be set back: whatever was written since shows.
  const argv = ["find", ...paths, "-type", "f", "-newerct", `@${since / 1000}`, "-print0"];
  const listing = await runCommand(["sh", "-c", '"$@" 2>/dev/null; exit 0', "sh", ...argv], {
    timeoutMs: TIMEOUT_MS,
    maxOutputBytes: MAX_LISTING_BYTES,
  });
  const files = listing.split("\0").filter((path) => path !== "");
  const found = texts.map((): string[] => []);
  for (const path of files) {
    const held = await holds(path, texts);
    for (const [at, is] of held.entries()) if (is) found[at]?.push(path);
  }
  return { found, count: files.length };
}

async function holds(path: string, texts: readonly string[]): Promise<boolean[]> {
  const needles = texts.map((text) => Buffer.from(text));
  const overlap = Math.max(...needles.map(({ length }) => length)) - 1;
  const held = needles.map(() => false);
  let file: FileHandle;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch {
    // Gone since it was listed.
    return held;
  }
  try {
    const piece = Buffer.alloc(PIECE + overlap);
    for (let at = 0; ; at += PIECE) {
      const { bytesRead } = await file.read(piece, 0, piece.length, at);
      const bytes = piece.subarray(0, bytesRead);
      for (const [index, needle] of needles.entries()) held[index] ||= bytes.includes(needle);
      if (bytesRead <= PIECE) return held;
    }
  } finally {
    await file.close();
  }
}
