import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
} from "node:fs";
import { join } from "node:path";
import { AppError } from "../errors.ts";
import { tryLock } from "../kernel/flock.ts";

const PREFIX = "cofferdam-verify-";
const OPEN = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
/** Another's sweep may take a fresh one for left behind, before it is locked. */
const ATTEMPTS = 10;

export interface Scratch extends Disposable {
  readonly dir: string;
}

/**
 * A directory for what must not stay, in a directory that may be anybody's to write. What killed processes have left
 * there goes first: nobody holds its lock any more.
 */
export function openScratch(parent: string): Scratch {
  for (const name of readdirSync(parent)) if (name.startsWith(PREFIX)) removeIfLeft(join(parent, name));
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const dir = mkdtempSync(join(parent, PREFIX));
    const fd = openSync(dir, OPEN);
    if (tryLock(fd, "exclusive") && existsSync(dir)) {
      return {
        dir,
        [Symbol.dispose]() {
          rmSync(dir, { recursive: true, force: true });
          closeSync(fd);
        },
      };
    }
    closeSync(fd);
  }
  throw new AppError(
    "unavailable",
    `Other processes remove what is made in ${parent}; name another: --scratch DIR.`,
  );
}

function removeIfLeft(dir: string): void {
  let fd: number;
  try {
    fd = openSync(dir, OPEN);
  } catch {
    // It is no directory, or has gone.
    return;
  }
  try {
    const isOurs = fstatSync(fd).uid === process.geteuid?.();
    if (isOurs && tryLock(fd, "exclusive")) rmSync(dir, { recursive: true, force: true });
  } finally {
    closeSync(fd);
  }
}
