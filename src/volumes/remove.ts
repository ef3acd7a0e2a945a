import { rename, unlink } from "node:fs/promises";
import { makeAnnounced, type Announce } from "../audit/announce.ts";
import { statAt, type FileStatus } from "../kernel/directory.ts";
import { AppError } from "../errors.ts";
import type { Mirrored } from "../remote/mirror.ts";
import { OPEN_DIRECTORY, openInside } from "./beneath.ts";
import { syncFile } from "./disk.ts";
import { fileFailure } from "./failure.ts";
import type { WorkspacePath } from "./path.ts";
import { purge } from "./purge.ts";
import type { Room } from "./quota.ts";
import type { Space } from "./space.ts";
import { chargeOf, type Usage } from "./usage.ts";

export interface RemoveOptions {
  /** Makes names in tmp. */
  readonly freshName: () => string;
  /** Told of the entry that goes, with what tells a later start whether it went. */
  readonly announce: Announce;
  /** Runs what changes the workspace, with its directories as they are by then. */
  readonly changing: (work: (space: Space) => Promise<void>) => Promise<void>;
  /** Runs what only has to do with tmp. */
  readonly purging: (work: (space: Space) => Promise<void>) => Promise<void>;
  readonly room: Room;
  readonly mirror: Mirrored;
}

/**
 * Deletes a file, a link itself, or a directory with all in it. It vanishes from the workspace at once and as a whole,
 * by a rename where that is long; what then takes time happens where the tenant can't add to it.
 */
export async function remove(path: WorkspacePath, options: RemoveOptions): Promise<void> {
  const { freshName, changing, purging, room } = options;
  const name = path.names.at(-1);
  if (name === undefined) {
    throw new AppError("bad_input", "The workspace itself can't be deleted; delete what is in it.");
  }
  const fresh = freshName();
  try {
    await changing(async (space) => moveAway(space, { ...options, path, name, fresh }));
    const gone = (status: FileStatus) => room.add(lessBy(status));
    await purging(async (space) => room.clearing(async () => purge(space.tmp, fresh, { freshName, gone })));
  } catch (error) {
    throw fileFailure(error, path);
  }
}

async function moveAway(
  space: Space,
  {
    path,
    name,
    fresh,
    announce,
    room,
    mirror,
  }: Pick<RemoveOptions, "announce" | "room" | "mirror"> & {
    path: WorkspacePath;
    name: string;
    fresh: string;
  },
): Promise<void> {
  using dir = openInside(space.live, path.names.slice(0, -1).join("/"), OPEN_DIRECTORY);
  const { kind, inode, changedNs } = statAt(dir.fd, name);
  if (path.directory && kind !== "directory") {
    throw new AppError("bad_input", `${path.text} is not a directory; take the slash off its end.`);
  }
  const data = { path: path.text };
  const entry = { inode: String(inode), changed_ns: String(changedNs) };
  const announcing = announce({ ...data, temporary: fresh, ...entry });
  await makeAnnounced(announcing, data, async (happened) => {
    await announcing;
    // Landlock keeps this process from moving anything but these two, for which the temporary name tells who did it.
    const moves = kind === "file" || kind === "directory";
    await room.inTurn(async () => {
      if (moves) await rename(dir.entry(name), space.tmp.entry(fresh));
      else await unlink(dir.entry(name));
    });
    happened();
    if (!moves) room.add({ files: -1 });
    const mirroring = kind === "directory" ? mirror.commit() : mirror.changed(dir.fd, name, null);
    await Promise.all([mirroring, syncFile(dir.fd)]);
  });
}

/** A file's bytes go with the last of its names. */
function lessBy(status: FileStatus): Partial<Usage> {
  if (status.kind === "directory") return { directories: -1, bytes: -chargeOf(status) };
  return { files: -1, bytes: status.links > 1n ? 0 : -chargeOf(status) };
}
