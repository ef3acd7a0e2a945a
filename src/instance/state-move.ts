import { closeSync, fstatSync, fsyncSync, readSync, writeSync } from "node:fs";
import { basename, relative } from "node:path";
import { AppError } from "../errors.ts";
import type { Instance } from "./instance.ts";
import { readDirectory } from "../kernel/directory.ts";
import { KernelError } from "../kernel/libc.ts";
import { constants, fchownFd, openBeneath, renameAt, unlinkAt } from "../kernel/openat2.ts";
import { openOwned } from "../kernel/owned.ts";
import { roleUser } from "../kernel/users.ts";
import { withoutApi } from "./presence.ts";

const CHUNK_BYTES = 4 * 1024 * 1024;

/** Every step of a move; `onStep` is called before each. */
export type MoveStep = "mark" | "copy" | "commit" | "remove";

/**
 * Moves the database that an earlier version kept beside the directory `state` into it, with its log and the copies that
 * were made of it. What is encrypted has to be written anew, so it is copied, and what it was copied from goes when the
 * copy is on the disk. A crash anywhere leaves one that is whole, and the next call ends what this one began.
 */
export async function moveDatabase(
  instance: Instance,
  state: number,
  encrypted: boolean,
  onStep: (step: MoveStep) => void = () => {},
): Promise<void> {
  const { data, api } = instance;
  const user = roleUser("cofferdam");
  const from = openOwned(data, relative(data, api.dir), constants.O_RDONLY, user, { mounts: true });
  try {
    const name = basename(api.database);
    // Not by its old name, so that a version which knows only that one can't be in the middle of it.
    const marked = `${name}.moving`;
    const leftovers = () => [...besides(from, name), `${name}-shm`, marked];
    if (![name, ...leftovers()].some((each) => has(from, each))) return;
    const alone = await withoutApi(instance, () => {
      if (has(from, name)) {
        const other = [
          [state, name, api.state],
          [from, marked, api.dir],
          // Without its database, it would be taken for the log of the one that comes.
          [state, `${name}-wal`, api.state],
        ] as const;
        for (const [dir, each, path] of other)
          if (has(dir, each)) throw twoDatabases(`${path}/${each}`, `${api.dir}/${name}`);
        onStep("mark");
        renameAt(from, name, from, marked);
        fsyncSync(from);
      }
      if (has(from, marked) && !has(state, name)) {
        onStep("copy");
        // Whole, and last: what is beside it counts from here on.
        if (encrypted) copyAll(from, state, name, marked);
        else for (const beside of besides(from, name)) rename(from, beside, state, beside);
        const [place, whole] = encrypted ? ([state, `${name}.new`] as const) : ([from, marked] as const);
        onStep("commit");
        renameAt(place, whole, state, name);
        fsyncSync(state);
      }
      onStep("remove");
      for (const left of leftovers()) if (has(from, left)) unlinkAt(from, left);
      fsyncSync(from);
    });
    if (!alone) throw new AppError("conflict", "The instance runs already; stop it first.");
  } finally {
    closeSync(from);
  }
}

function twoDatabases(one: string, another: string): AppError {
  return new AppError(
    "conflict",
    `There are two databases, ${one} and ${another}, which an older version must have made since; move the one that shall not be used to another place, with what is beside it.`,
  );
}

/** All that a database is, or nothing: for want of room an older version may go on with what it has. */
function copyAll(from: number, to: number, name: string, marked: string): void {
  try {
    for (const beside of besides(from, name)) copy(from, beside, to, beside);
    copy(from, marked, to, `${name}.new`);
  } catch (error) {
    for (const copied of [...besides(from, name), `${name}.new`]) if (has(to, copied)) unlinkAt(to, copied);
    fsyncSync(to);
    renameAt(from, marked, from, name);
    fsyncSync(from);
    throw error;
  }
}

/** Its write-ahead log, which holds commits too, and the copies from before upgrades. */
function besides(dir: number, name: string): string[] {
  const found: string[] = [];
  const reading = openBeneath(dir, ".", constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    for (const batch of readDirectory(reading)) {
      for (const entry of batch) {
        const text = Buffer.from(entry.name).toString();
        if (text === `${name}-wal` || text.startsWith(`${name}.before-`)) found.push(text);
      }
    }
  } finally {
    closeSync(reading);
  }
  return found;
}

function rename(from: number, name: string, to: number, newName: string): void {
  renameAt(from, name, to, newName);
  fsyncSync(to);
}

function copy(from: number, name: string, to: number, newName: string): void {
  const { O_RDONLY, O_WRONLY, O_CREAT, O_TRUNC, O_NOFOLLOW, O_NONBLOCK } = constants;
  const source = openBeneath(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  try {
    if (!fstatSync(source).isFile()) throw new Error(`${name} is not a file`);
    const target = openBeneath(to, newName, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0o600);
    try {
      const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
      for (;;) {
        const length = readSync(source, buffer);
        if (length === 0) break;
        for (let at = 0; at < length;) at += writeSync(target, buffer, at, length - at);
      }
      const { uid, gid } = roleUser("cofferdam");
      fchownFd(target, uid, gid);
      fsyncSync(target);
    } finally {
      closeSync(target);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
    throw new AppError(
      "no_space",
      "The database is copied into an encrypted directory, once, and the disk is too full for that; free some and start again. Nothing was changed.",
      { cause: error },
    );
  } finally {
    closeSync(source);
  }
}

function has(dir: number, name: string): boolean {
  try {
    closeSync(openBeneath(dir, name, constants.O_PATH | constants.O_NOFOLLOW));
    return true;
  } catch (error) {
    if (error instanceof KernelError && error.code === "ENOENT") return false;
    throw error;
  }
}
