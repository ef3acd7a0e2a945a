import { rmdir, unlink } from "node:fs/promises";
import { readDirectory, type Entry } from "../kernel/directory.ts";
import { constants, openBeneath, renameAt } from "../kernel/openat2.ts";
import { Descriptor } from "./descriptor.ts";
import { codeOf } from "./failure.ts";
import { createPause } from "./pause.ts";
import { OPEN_DIRECTORY } from "./beneath.ts";
import { purgeLocked } from "./purge-locked.ts";

/** A command that still has a directory open can put files into it; one that does so for ever is left to the sweep. */
const MAX_ROUNDS = 50;

/**
 * Deletes an entry of `trash`, a directory that no tenant reaches, with all that is in it. Subdirectories are first
 * moved up into `trash`, so that a tree of any depth takes one open directory and one name at a time, and nothing is
 * ever looked up below a name that somebody could turn into a link. `freshName` makes names for them.
 */
export async function purge(trash: Descriptor, name: string, freshName: () => string): Promise<void> {
  const waiting = [name];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    if (await unlinked(trash, next)) continue;
    try {
      await purgeDirectory(trash, next, waiting, freshName);
    } catch (error) {
      if (codeOf(error) !== "ENOKEY") throw error;
      await purgeLocked(trash, next);
    }
  }
}

async function purgeDirectory(trash: Descriptor, name: string, waiting: string[], freshName: () => string) {
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
        const done = await Promise.all(rest.map(async (entry) => unlinked(dir, entry.name)));
        for (const [index, entry] of rest.entries()) if (done[index] === false) moveUp(entry);
      }
    }
    try {
      await rmdir(trash.entry(name));
      return;
    } catch (error) {
      if (codeOf(error) === "ENOENT") return;
      if (codeOf(error) !== "ENOTEMPTY") throw error;
    }
  }
}

/** false when it is a directory. */
async function unlinked(dir: Descriptor, name: string | Uint8Array): Promise<boolean> {
  try {
    await unlink(dir.entry(name));
    return true;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return true;
    if (codeOf(error) === "EISDIR") return false;
    throw error;
  }
}
