import { mkdirSync } from "node:fs";
import { makeAnnounced, type Announce } from "../audit/announce.ts";
import type { EventData } from "../audit/event.ts";
import { AppError } from "../errors.ts";
import { statFd } from "../kernel/directory.ts";
import { constants, openBeneath, renameAt } from "../kernel/openat2.ts";
import { isBelowFloor, statfs } from "../kernel/statfs.ts";
import { syncFileSystem } from "../kernel/syncfs.ts";
import { OPEN_DIRECTORY } from "./beneath.ts";
import { Descriptor } from "./descriptor.ts";
import { syncFile } from "./disk.ts";
import { purge } from "./purge.ts";

const { RENAME_EXCHANGE, O_NOFOLLOW } = constants;

/** Throws no_space when the disk has no room for so many bytes: others fill it, too. */
export type CheckRoom = (bytes: number) => void;

export interface Replacement {
  /** What it counts with. */
  readonly bytes: number;
  /** What of that it takes on the disk, where there has to be room for it beside what is there: not its holes. */
  readonly dataBytes: () => Promise<number>;
  readonly files: number;
  /** Fills an empty directory; the directory itself becomes the workspace, with its owner and mode. */
  readonly build: (dir: Descriptor, checkRoom: CheckRoom) => Promise<void>;
  /** What the event says. */
  readonly data: EventData;
  /** Told when all is built, with what tells a later start whether it took its place. */
  readonly announce: Announce;
  /** Runs the swap while nobody writes in the workspace, and nothing runs in it that could. */
  readonly alone: (swap: () => Promise<void>) => Promise<void>;
}

export interface ReplaceParts {
  /** The namespace's directory, with live and tmp in it. */
  readonly volume: Descriptor;
  /** What the disk has to have free afterwards. */
  readonly diskFloorBytes: number;
  /** Makes names in tmp. */
  readonly freshName: () => string;
}

/**
 * Puts another tree in the place of a whole workspace, or nothing: it is built beside, reaches the disk, and the two
 * change places in one call of the kernel's. Whatever goes wrong before that has changed nothing; a crash leaves the old
 * tree or the new one.
 */
export async function replaceLive(
  { volume, diskFloorBytes, freshName }: ReplaceParts,
  { bytes, dataBytes, build, data, announce, alone }: Replacement,
): Promise<void> {
  using tmp = new Descriptor(
    openBeneath(volume.fd, "tmp", OPEN_DIRECTORY | O_NOFOLLOW, 0, { noSymlinks: true }),
  );
  const fits = (more: number) => !isBelowFloor(statfs(tmp.fd), diskFloorBytes, more);
  // What it takes is only known by going through all of it.
  if (!fits(bytes) && !fits(await dataBytes())) throw noRoom();
  const fresh = freshName();
  mkdirSync(tmp.entry(fresh), 0o700);
  try {
    using dir = new Descriptor(openBeneath(tmp.fd, fresh, OPEN_DIRECTORY | O_NOFOLLOW));
    await build(dir, (more) => {
      if (!fits(more)) throw noRoom();
    });
    await syncFileSystem(dir.fd);
    const inode = String(statFd(dir.fd).inode);
    const announcing = announce({ ...data, temporary: fresh, inode });
    await makeAnnounced(announcing, data, async (happened) => {
      await announcing;
      await alone(async () => {
        renameAt(volume.fd, "live", tmp.fd, fresh, RENAME_EXCHANGE);
        happened();
        await Promise.all([syncFile(volume.fd), syncFile(tmp.fd)]);
      });
    });
  } finally {
    // What was built, or what was there before.
    await purge(tmp, fresh, { freshName });
  }
}

function noRoom(): AppError {
  return new AppError(
    "no_space",
    "There is not enough room on the disk to build these files beside the ones that are there; delete something first.",
  );
}
