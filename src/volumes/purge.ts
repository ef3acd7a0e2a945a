import { codeOf } from "../errors.ts";
import { unlinkSync } from "node:fs";
import { rmdir, unlink } from "node:fs/promises";
import { readDirectory, statAt, type Entry, type FileStatus } from "../kernel/directory.ts";
import { constants, openBeneath, renameAt } from "../kernel/openat2.ts";
import { Descriptor } from "./descriptor.ts";
import { createPause } from "./pause.ts";
import { OPEN_DIRECTORY } from "./beneath.ts";
import { purgeLocked } from "./purge-locked.ts";

/** A command that still has a directory open can put files into it; one that does so for ever is left to the sweep. */
const MAX_ROUNDS = 50;

/**
 * Deletes an entry of `trash`, a directory that no tenant reaches, with all that is in it. Subdirectories are first
 * moved up into `trash`, so that a tree of any depth takes one open directory and one name at a time, and nothing is
 * ever looked up below a name that somebody could turn into a link.
 */
export async function purge(trash: Descriptor, name: string, purging: Purging): Promise<void> {
  const waiting = [name];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    if (await unlinked(trash, next, purging)) continue;
    try {
      await purgeDirectory(trash, next, waiting, purging);
    } catch (error) {
      if (codeOf(error) !== "ENOKEY") throw error;
      await purgeLocked(trash, next);
    }
  }
}

interface Purging {
  /** Makes names for subdirectories. */
  readonly freshName: () => string;
  /** Told what each entry was. */
  readonly gone?: (status: FileStatus) => void;
}

async function purgeDirectory(trash: Descriptor, name: string, waiting: string[], purging: Purging) {
  const { freshName, gone } = purging;
  const pause = createPause();
  for (let round = 0; round < MAX_ROUNDS; round++) {
    {
      using dir = new Descriptor(openBeneath(trash.fd, name, OPEN_DIRECTORY | constants.O_NOFOLLOW));
      const moveUp = (entry: Entry) => {
        const fresh = freshName();
        try {
          renameAt(dir.fd, entry.name, trash.fd, fresh);
          waiting.push(fresh);
        } catch (error) {
          if (codeOf(error) !== "ENOENT") throw error;
        }
      };
      for (const batch of readDirectory(dir.fd)) {
        for (const entry of batch) {
          if (entry.kind !== "directory") continue;
          moveUp(entry);
          await pause();
        }
        // On Bun's threads, since freeing a large file takes the file system a while.
        const rest = batch.filter(({ kind }) => kind !== "directory");
        const done = await Promise.all(rest.map(async (entry) => unlinked(dir, entry.name, purging)));
        for (const [index, entry] of rest.entries()) if (done[index] === false) moveUp(entry);
      }
    }
    try {
      const status = gone === undefined ? null : statAt(trash.fd, name);
      await rmdir(trash.entry(name));
      if (status !== null) gone?.(status);
      return;
    } catch (error) {
      if (codeOf(error) === "ENOENT") return;
      if (codeOf(error) !== "ENOTEMPTY") throw error;
    }
  }
}

/** false when it is a directory. */
async function unlinked(dir: Descriptor, name: string | Uint8Array, { gone }: Purging): Promise<boolean> {
  try {
    if (gone === undefined) {
      await unlink(dir.entry(name));
      return true;
    }
    const status = statAt(dir.fd, name);
    if (status.kind === "directory") return false;
    // At once, so that of two names of one file the second is seen to be the last; nothing is freed yet.
    if (status.links > 1n) unlinkSync(dir.entry(name));
    else await unlink(dir.entry(name));
    gone(status);
    return true;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return true;
    if (codeOf(error) === "EISDIR") return false;
    throw error;
  }
}
