import { rmdirSync } from "node:fs";
import { constants, fchmodFd, fchownFd, mkdirAt, openBeneath, renameAt } from "../kernel/openat2.ts";
import { AppError, codeOf } from "../errors.ts";
import { lookups, OPEN_DIRECTORY, openInside, type Lookups } from "./beneath.ts";
import { Descriptor } from "./descriptor.ts";
import type { WorkspacePath } from "./path.ts";
import type { Space } from "./space.ts";

/** The uid and gid of every tenant's files; commands run as it. */
export const TENANT = 10_000;
const DIRECTORY_MODE = 0o755;
/**
 * One write makes no more: each costs five calls that keep the event loop, and a descriptor until all is on the disk. A
 * URL's path has no more names than that either.
 */
const MAX_NEW_DIRECTORIES = 64;
const { RENAME_NOREPLACE, O_NOFOLLOW } = constants;

/** The directory that `path` is in, and those directories that got a new entry on the way to it. */
export interface Parents {
  readonly dir: Descriptor;
  readonly grown: readonly Descriptor[];
}

export interface Making {
  /** Makes names in tmp. */
  readonly freshName: () => string;
  /** Told of each directory, also where what comes after it fails. */
  readonly made: () => void;
}

/** How many directories a write to `path` would have to make; too many are refused. */
export function missingParents(space: Space, path: WorkspacePath): number {
  const budget = lookups();
  const isThere = (count: number): boolean => {
    using dir = openIfThere(space, path, path.names.slice(0, count), budget);
    return dir !== null;
  };
  const wanted = path.names.length - 1;
  // Mostly all are there. Else by halves: each look costs as much as the path is long.
  if (isThere(wanted)) return 0;
  let [there, absent] = [0, wanted];
  while (absent - there > 1) {
    const middle = Math.floor((there + absent) / 2);
    if (isThere(middle)) there = middle;
    else absent = middle;
  }
  if (wanted - there > MAX_NEW_DIRECTORIES) {
    throw new AppError(
      "bad_input",
      `A write makes at most ${MAX_NEW_DIRECTORIES} missing directories; make those above first.`,
    );
  }
  return wanted - there;
}

/** Opens the directory that `path` is in; makes it and those above it where they are missing. */
export function ensureParents(space: Space, path: WorkspacePath, making: Making): Parents {
  const names = path.names.slice(0, -1);
  const missing = missingParents(space, path);
  const grown: Descriptor[] = [];
  let dir = openInside(space.live, names.slice(0, names.length - missing).join("/"), OPEN_DIRECTORY);
  try {
    for (const name of names.slice(names.length - missing)) {
      makeDirectory(space, dir, name, making);
      grown.push(dir);
      dir = openMade(dir, name, path);
    }
    return { dir, grown };
  } catch (error) {
    for (const each of new Set([...grown, dir])) each[Symbol.dispose]();
    throw error;
  }
}

/** It appears with its owner and mode: a process killed in between leaves no directory that the tenant can't use. */
function makeDirectory(space: Space, parent: Descriptor, name: string, { freshName, made }: Making): void {
  const fresh = freshName();
  mkdirAt(space.tmp.fd, fresh, DIRECTORY_MODE);
  try {
    using dir = new Descriptor(openBeneath(space.tmp.fd, fresh, OPEN_DIRECTORY));
    fchownFd(dir.fd, TENANT, TENANT);
    // The process's umask had its say in mkdir.
    fchmodFd(dir.fd, DIRECTORY_MODE);
    renameAt(space.tmp.fd, fresh, parent.fd, name, RENAME_NOREPLACE);
    made();
  } catch (error) {
    rmdirSync(space.tmp.entry(fresh));
    // Somebody else was faster.
    if (codeOf(error) !== "EEXIST") throw error;
  }
}

/** No link is followed: where one stands it was planted just now, or leads nowhere, or `missingParents` had seen it. */
function openMade(parent: Descriptor, name: string, path: WorkspacePath): Descriptor {
  try {
    return new Descriptor(openBeneath(parent.fd, name, OPEN_DIRECTORY | O_NOFOLLOW));
  } catch (error) {
    if (codeOf(error) !== "ENOTDIR" && codeOf(error) !== "ELOOP") throw error;
    throw inTheWay(path, error);
  }
}

function openIfThere(
  space: Space,
  path: WorkspacePath,
  names: readonly string[],
  budget: Lookups,
): Descriptor | null {
  try {
    return openInside(space.live, names.join("/"), OPEN_DIRECTORY, budget);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    throw codeOf(error) === "ENOTDIR" ? inTheWay(path, error) : error;
  }
}

function inTheWay(path: WorkspacePath, cause: unknown): AppError {
  return new AppError("conflict", `Something on the way to ${path.text} is not a directory.`, { cause });
}
