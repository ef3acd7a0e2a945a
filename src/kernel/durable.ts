import {
  closeSync,
  fchmodSync,
  fchownSync,
  fsyncSync,
  linkSync,
  openSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";

/** What a crash may leave of a file that was being written; it holds nothing that counts. */
export const TEMPORARY = ".new-";

export interface FileAccess {
  readonly mode: number;
  /** root's, when it is not said. */
  readonly gid?: number;
}

/** A durable file with all of its content, or none: what is there already stays, and false is the answer. */
export function writeOnce(path: string, content: string | Uint8Array, access: FileAccess): boolean {
  return written(path, content, access, (temporary) => {
    try {
      linkSync(temporary, path);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
      throw error;
    } finally {
      rmSync(temporary);
    }
  });
}

/** The old content or the new one, whenever the power fails. */
export function replaceFile(path: string, content: string | Uint8Array, access: FileAccess): void {
  written(path, content, access, (temporary) => renameSync(temporary, path));
}

/** A name's change that the disk has when this returns. */
export function renameDurably(from: string, to: string): void {
  renameSync(from, to);
  syncDirectory(dirname(to));
}

export function syncDirectory(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function written<T>(
  path: string,
  content: string | Uint8Array,
  { mode, gid = 0 }: FileAccess,
  place: (temporary: string) => T,
): T {
  const temporary = join(dirname(path), `${TEMPORARY}${crypto.randomUUID()}`);
  const fd = openSync(temporary, "wx", 0o600);
  try {
    const bytes = Buffer.from(content);
    if (writeSync(fd, bytes) !== bytes.length) throw new Error(`${temporary}: short write`);
    fchownSync(fd, 0, gid);
    fchmodSync(fd, mode);
    fsyncSync(fd);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  } finally {
    closeSync(fd);
  }
  const done = place(temporary);
  syncDirectory(dirname(path));
  return done;
}
