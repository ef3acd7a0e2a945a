import { codeOf } from "../errors.ts";
import { openSync } from "node:fs";
import { rmdir, unlink } from "node:fs/promises";
import { readDirectory, statFd } from "../kernel/directory.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import { OPEN_DIRECTORY } from "./beneath.ts";
import { Descriptor } from "./descriptor.ts";
import { createPause, type Pause } from "./pause.ts";

/**
 * Deletes a directory of `trash` whose key the kernel does not have, perhaps nobody any more. Its names are stand-ins
 * then, by which entries can be deleted but not moved; and so nobody else moves one either. That makes `..` a way back,
 * and takes one descriptor however deep the tree is.
 */
export async function purgeLocked(trash: Descriptor, name: string): Promise<void> {
  const pause = createPause();
  const inodes: bigint[] = [];
  let dir = enter(trash, name);
  try {
    for (;;) {
      const full = await emptied(dir, pause);
      if (full !== null) {
        inodes.push(statFd(dir.fd).inode);
        dir = moved(dir, enter(dir, full));
        continue;
      }
      const above = inodes.pop();
      if (above === undefined) break;
      dir = moved(dir, parentOf(dir));
      if (statFd(dir.fd).inode !== above) throw new Error(`${name} was moved while it was deleted`);
    }
  } finally {
    dir[Symbol.dispose]();
  }
  await rmdir(trash.entry(name));
}

/** Deletes what is no directory, and the directories that are empty. A name of one that is not, or null. */
async function emptied(dir: Descriptor, pause: Pause): Promise<Uint8Array | null> {
  for (const batch of readDirectory(dir.fd)) {
    const files = batch.filter(({ kind }) => kind !== "directory");
    // On Bun's threads, since freeing a large file takes the file system a while.
    await Promise.all(files.map(async ({ name }) => unlink(dir.entry(name)).catch(ignoreAbsence)));
    for (const { name, kind } of batch) {
      await pause();
      if (kind === "directory" && !(await removed(dir, name))) return name;
    }
  }
  return null;
}

async function removed(dir: Descriptor, name: Uint8Array): Promise<boolean> {
  try {
    await rmdir(dir.entry(name));
    return true;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return true;
    if (codeOf(error) === "ENOTEMPTY") return false;
    throw error;
  }
}

function enter(dir: Descriptor, name: string | Uint8Array): Descriptor {
  return new Descriptor(openBeneath(dir.fd, name, OPEN_DIRECTORY | constants.O_NOFOLLOW));
}

function parentOf(dir: Descriptor): Descriptor {
  const flags = OPEN_DIRECTORY | constants.O_NOFOLLOW | constants.O_CLOEXEC;
  return new Descriptor(openSync(dir.entry(".."), flags));
}

function moved(from: Descriptor, to: Descriptor): Descriptor {
  from[Symbol.dispose]();
  return to;
}

function ignoreAbsence(error: unknown): void {
  if (codeOf(error) !== "ENOENT") throw error;
}
