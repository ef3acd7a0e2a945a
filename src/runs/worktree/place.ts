import { mkdirSync, openSync } from "node:fs";
import { rename, rm, rmdir } from "node:fs/promises";
import { AppError, codeOf } from "../../errors.ts";
import type { RunId } from "../../ids.ts";
import { isEmptyDirectory, readDirectory, statFd } from "../../kernel/directory.ts";
import { constants, fchmodFd, fchownFd, mkdirAt, openBeneath, renameAt } from "../../kernel/openat2.ts";
import { OPEN_DIRECTORY } from "../../volumes/beneath.ts";
import { Descriptor } from "../../volumes/descriptor.ts";
import { TENANT } from "../../volumes/parents.ts";
import { purge } from "../../volumes/purge.ts";

const { O_NOFOLLOW, O_CLOEXEC } = constants;
const WORK = "work";
/** Beside a worktree: which files it was made with, in which boot of the machine, and that it is on the disk since. */
export const STAMPS = "stamps";
export const BOOT = "boot";
export const KEPT = "kept";
/** Beside the runs: what is being deleted. No run's id looks like this. */
const TRASH = ".trash";

/** The directories of runs, below `dir`: `<run>/work` is the tenant's, what else is in `<run>` is ours. */
export function openPlaces(dir: string) {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const root = new Descriptor(openSync(dir, OPEN_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  const trash = ensured(root, TRASH, 0o700);
  const mine = `${crypto.randomUUID()}-`;
  let made = 0;
  const freshName = () => `${mine}${made++}`;

  function open(parent: Descriptor, name: string): Descriptor | null {
    try {
      return new Descriptor(
        openBeneath(parent.fd, name, OPEN_DIRECTORY | O_NOFOLLOW, 0, { noSymlinks: true, noMounts: true }),
      );
    } catch (error) {
      if (codeOf(error) === "ENOENT") return null;
      throw error;
    }
  }

  return {
    /** A run's own directory, made if it is not there. */
    run: (run: RunId): Descriptor => ensured(root, run, 0o700),

    /** An empty worktree, made if there is none: the same directory whenever it is asked for, since a sandbox may have it. */
    prepare(run: RunId): Descriptor {
      using own = ensured(root, run, 0o700);
      const work = ensured(own, WORK, 0o755);
      fchownFd(work.fd, TENANT, TENANT);
      return work;
    },

    /** null when there is none, or no more. */
    work(run: RunId): Descriptor | null {
      using own = open(root, run);
      return own === null ? null : open(own, WORK);
    },

    /** Takes out all that is in a worktree, which itself stays. */
    async empty(work: Descriptor): Promise<void> {
      if (isEmptyDirectory(work.fd)) return;
      const moved: string[] = [];
      using listed = new Descriptor(openBeneath(work.fd, ".", OPEN_DIRECTORY));
      // All names first: what is taken out of a directory moves what is behind it.
      for (const { name } of [...readDirectory(listed.fd)].flat()) {
        const fresh = freshName();
        renameAt(work.fd, name, trash.fd, fresh);
        moved.push(fresh);
      }
      for (const name of moved) await purge(trash, name, { freshName });
    },

    /** It is out of sight when the first step is done, and gone when this resolves. */
    async remove(run: RunId): Promise<void> {
      using own = open(root, run);
      if (own === null) return;
      const fresh = freshName();
      try {
        await rename(own.entry(WORK), trash.entry(fresh));
        await purge(trash, fresh, { freshName });
      } catch (error) {
        if (codeOf(error) !== "ENOENT") throw error;
      }
      for (const name of [STAMPS, BOOT, KEPT]) await rm(own.entry(name), { force: true });
      // What the run said is kept for longer.
      await rmdir(root.entry(run)).catch((error: unknown) => {
        if (codeOf(error) !== "ENOTEMPTY" && codeOf(error) !== "ENOENT") throw error;
      });
    },

    /** All runs that have a directory. */
    runs(): string[] {
      using listed = new Descriptor(openBeneath(root.fd, ".", OPEN_DIRECTORY));
      return [...readDirectory(listed.fd)]
        .flat()
        .map(({ name }) => Buffer.from(name).toString())
        .filter((name) => name !== TRASH);
    },

    /** What a crash has left of deletions. */
    async sweep(): Promise<void> {
      using listed = new Descriptor(openBeneath(trash.fd, ".", OPEN_DIRECTORY));
      for (const { name } of [...readDirectory(listed.fd)].flat()) {
        const text = Buffer.from(name).toString();
        if (!text.startsWith(mine)) await purge(trash, text, { freshName });
      }
    },

    close(): void {
      trash[Symbol.dispose]();
      root[Symbol.dispose]();
    },
  };
}

function ensured(parent: Descriptor, name: string, mode: number): Descriptor {
  try {
    mkdirAt(parent.fd, name, mode);
  } catch (error) {
    if (codeOf(error) !== "EEXIST") throw error;
  }
  const dir = new Descriptor(
    openBeneath(parent.fd, name, OPEN_DIRECTORY | O_NOFOLLOW, 0, { noSymlinks: true }),
  );
  // The process's umask had its say in mkdir.
  if (name !== WORK || statFd(dir.fd).uid !== TENANT) fchmodFd(dir.fd, mode);
  return dir;
}

/** For who asks for a worktree that is not there any more. */
export function noWorktree(run: string): AppError {
  return new AppError(
    "conflict",
    `The worktree of ${run} is gone: it was merged, discarded or kept long enough.`,
  );
}
