import { rename, unlink } from "node:fs/promises";
import { statAt } from "../kernel/directory.ts";
import { AppError } from "../errors.ts";
import { OPEN_DIRECTORY, openInside } from "./beneath.ts";
import type { Descriptor } from "./descriptor.ts";
import { syncFile } from "./disk.ts";
import { fileFailure } from "./failure.ts";
import type { WorkspacePath } from "./path.ts";
import { purge } from "./purge.ts";
import type { Space } from "./space.ts";

/**
 * Deletes a file, a link itself, or a directory with all in it. A directory vanishes from the workspace at once and
 * as a whole, by a rename; what then takes time happens where the tenant can't add to it.
 */
export async function remove(
  space: Space | null,
  path: WorkspacePath,
  freshName: () => string,
): Promise<void> {
  const name = path.names.at(-1);
  if (name === undefined) {
    throw new AppError("bad_input", "The workspace itself can't be deleted; delete what is in it.");
  }
  if (space === null) throw new AppError("not_found", `There is no ${path.text}.`);
  try {
    using dir = openInside(space.live, path.names.slice(0, -1).join("/"), OPEN_DIRECTORY);
    if (statAt(dir.fd, name).kind === "directory") return await removeDirectory(space, dir, name, freshName);
    if (path.directory) {
      throw new AppError("bad_input", `${path.text} is not a directory; take the slash off its end.`);
    }
    await unlink(dir.entry(name));
    await syncFile(dir.fd);
  } catch (error) {
    throw fileFailure(error, path);
  }
}

async function removeDirectory(space: Space, parent: Descriptor, name: string, freshName: () => string) {
  const fresh = freshName();
  await rename(parent.entry(name), space.tmp.entry(fresh));
  await syncFile(parent.fd);
  await purge(space.tmp, fresh, freshName);
}
