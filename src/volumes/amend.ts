import { mkdirSync } from "node:fs";
import type { Announce } from "../audit/announce.ts";
import type { EventData } from "../audit/event.ts";
import { AppError } from "../errors.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import { isBelowFloor, statfs } from "../kernel/statfs.ts";
import { syncFileSystem } from "../kernel/syncfs.ts";
import { OPEN_DIRECTORY } from "./beneath.ts";
import { Descriptor } from "./descriptor.ts";
import { purge } from "./purge.ts";
import { decide, redo, writeList, type Step } from "./redo.ts";
import type { CheckRoom } from "./replace.ts";
import type { Space } from "./space.ts";
import type { Amount } from "./usage.ts";

export interface Amendment {
  /** What the workspace has more of afterwards, at most. */
  readonly more: Amount;
  /** What has to lie ready beside it. */
  readonly bytes: number;
  /** Puts what is to come into an empty directory: each under a name, with its owner, mode and times. */
  readonly prepare: (dir: Descriptor, checkRoom: CheckRoom) => Promise<void>;
  /** What is to be made, over the files as they are then. What it throws stops all of it. */
  readonly plan: (live: Descriptor) => Promise<readonly Step[]>;
  /** Runs `work` while nobody writes in the workspace and nothing runs on in it. */
  readonly alone: <T>(work: () => Promise<T>) => Promise<T>;
  /** What the event says, first before it is known what is to be made. */
  readonly data: () => EventData;
  readonly announce: Announce;
  /** Called when all of it is made, before the event. */
  readonly made: () => Promise<void>;
}

export interface AmendParts {
  readonly space: Space;
  readonly diskFloorBytes: number;
  readonly freshName: () => string;
  /** The volume has to be opened anew before anybody else uses it: what was decided is made then. */
  readonly onUnfinished: () => void;
}

/**
 * Makes many changes of a workspace, or none: a crash leaves the workspace as it was or as it is to be, at the latest when
 * it is opened next. Everything slow comes before; the workspace is held up for the plan, and some renames.
 */
export async function amendLive(parts: AmendParts, amendment: Amendment): Promise<void> {
  const { space, diskFloorBytes, freshName } = parts;
  const { bytes, prepare, data, announce, made } = amendment;
  const checkRoom: CheckRoom = (more) => {
    if (isBelowFloor(statfs(space.tmp.fd), diskFloorBytes, more)) throw noRoom();
  };
  checkRoom(bytes);
  const fresh = freshName();
  mkdirSync(space.tmp.entry(fresh), 0o700);
  const left = new Set([fresh]);
  try {
    using dir = new Descriptor(openBeneath(space.tmp.fd, fresh, OPEN_DIRECTORY | constants.O_NOFOLLOW));
    await prepare(dir, checkRoom);
    await syncFileSystem(dir.fd);
    const announcement = await announce({ ...data(), temporary: fresh });
    const seen = { decided: false };
    try {
      await amendment.alone(async () => {
        await writeList(dir, await amendment.plan(space.live));
        const deciding = decide(space, fresh);
        seen.decided = true;
        left.delete(fresh);
        await deciding;
        const rest = await redo(space, freshName);
        if (rest !== null) left.add(rest);
      });
      await made();
    } catch (error) {
      // Once it is decided it stays announced, for a start to find out.
      if (!seen.decided) await announcement.abandon().catch(() => {});
      else parts.onUnfinished();
      throw error;
    }
    await announcement.complete(data());
  } finally {
    for (const name of left) await purge(space.tmp, name, { freshName });
  }
}

/** What an earlier process decided, before anybody sees the files. */
export async function finishAmendment(space: Space, freshName: () => string): Promise<void> {
  const rest = await redo(space, freshName);
  if (rest !== null) await purge(space.tmp, rest, { freshName });
}

function noRoom(): AppError {
  return new AppError(
    "no_space",
    "There is not enough room on the disk to keep these changes beside the files that are there; delete something first.",
  );
}
