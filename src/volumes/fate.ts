import { z } from "zod";
import type { EventData } from "../audit/event.ts";
import type { Fate, Judge } from "../audit/settle.ts";
import { AppError, codeOf } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import { statFd, type FileStatus } from "../kernel/directory.ts";
import { OPEN_DIRECTORY, openInside, statusAt } from "./beneath.ts";
import { parsePath, type WorkspacePath } from "./path.ts";
import { openFile } from "./read.ts";
import type { Space } from "./space.ts";

/** A start waits for these to be read: what is more than this together is not compared. About a second. */
const MAX_HASHED_BYTES = 1024 * 1024 * 1024;
const CHUNK_BYTES = 1024 * 1024;

const announcedWrite = z.object({
  path: z.string(),
  size_bytes: z.number(),
  sha256: z.string(),
  temporary: z.string(),
});
const announcedRemoval = z.object({
  path: z.string(),
  temporary: z.string(),
  inode: z.string(),
  changed_ns: z.string(),
});

const announcedMerge = z.looseObject({ temporary: z.string() });

type FileEvent = "file.written" | "file.deleted" | "run.merged" | "snapshot.restored";

const announcedRestore = z.looseObject({ temporary: z.string(), inode: z.string() });

/**
 * What became of writes, deletions and restores, by what they have left on the disk. Before anything else changes it. Where the
 * disk is not the truth, in S3 mode, it tells only of what was never made.
 */
export function fileJudges(
  within: <T>(id: NamespaceId, look: (space: Space | null) => Promise<T>) => Promise<T>,
  isTruth = true,
): Record<FileEvent, Judge> {
  const budget = { bytes: MAX_HASHED_BYTES };

  async function judged(
    id: NamespaceId,
    data: EventData,
    find: (space: Space) => Promise<Fate>,
  ): Promise<{ fate: Fate; data: EventData }> {
    return within(id, async (space) => {
      // Deleted with all that would have told.
      if (space === null && isTruth) return { fate: "unknown", data: { ...data, namespace_deleted: true } };
      const fate = space === null ? "unknown" : await find(space);
      return { fate: fate === "made" && !isTruth ? "unknown" : fate, data };
    });
  }

  return {
    "file.written": async (announced, id) => {
      const { temporary, ...data } = announcedWrite.parse(announced);
      return judged(id, data, async (space) => fateOfWrite(space, { temporary, ...data }, budget));
    },
    "file.deleted": async (announced, id) => {
      const { path, ...traces } = announcedRemoval.parse(announced);
      return judged(id, { path }, async (space) => fateOfRemoval(space, { path, ...traces }));
    },
    "run.merged": async (announced, id) => {
      const { temporary, ...data } = announcedMerge.parse(announced);
      return judged(id, data as EventData, async (space) => fateOfMerge(space, temporary));
    },
    "snapshot.restored": async (announced, id) => {
      const { temporary, inode, ...data } = announcedRestore.parse(announced);
      return judged(id, data as EventData, async (space) => fateOfRestore(space, temporary, inode));
    },
  };
}

/** The temporary file is gone exactly when it took its place; what is there now may be a later one. */
async function fateOfWrite(
  space: Space,
  { path, size_bytes, sha256, temporary }: z.infer<typeof announcedWrite>,
  budget: { bytes: number },
): Promise<Fate> {
  if (statusAt(space.tmp, temporary) !== null) return "not made";
  try {
    const file = openFile(space, parsePath(path));
    try {
      if (file.status.size !== size_bytes || size_bytes > budget.bytes) return "unknown";
      budget.bytes -= size_bytes;
      const hash = new Bun.CryptoHasher("sha256");
      for (let at = 0; at < size_bytes; at += CHUNK_BYTES) hash.update(await file.bytes(at, CHUNK_BYTES));
      return hash.digest("hex") === sha256 ? "made" : "unknown";
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof AppError) return "unknown";
    throw error;
  }
}

/** It is moved to the temporary name first, and away from there only when its event is complete. */
async function fateOfRemoval(
  space: Space,
  { path, temporary, inode, changed_ns }: z.infer<typeof announcedRemoval>,
): Promise<Fate> {
  if (statusAt(space.tmp, temporary) !== null) return "made";
  const status = entryOf(space, parsePath(path));
  if (status === null) return "made";
  const same = String(status.inode) === inode && String(status.changedNs) === changed_ns;
  return same ? "not made" : "unknown";
}

/** What it was made of took another name when it was decided, and whoever opened the volume has made the rest. */
function fateOfMerge(space: Space, temporary: string): Fate {
  return statusAt(space.tmp, temporary) === null ? "made" : "not made";
}

/** Two trees changed places, or did not: the new one is known by its inode. A later restore has hidden where it went. */
function fateOfRestore(space: Space, temporary: string, inode: string): Fate {
  if (String(statFd(space.live.fd).inode) === inode) return "made";
  const beside = statusAt(space.tmp, temporary);
  return beside !== null && String(beside.inode) === inode ? "not made" : "unknown";
}

function entryOf(space: Space, path: WorkspacePath): FileStatus | null {
  const name = path.names.at(-1) ?? ".";
  try {
    using dir = openInside(space.live, path.names.slice(0, -1).join("/"), OPEN_DIRECTORY);
    return statusAt(dir, name);
  } catch (error) {
    // Its directory is gone too, or is none any more.
    if (["ENOENT", "ENOTDIR", "EXDEV", "ELOOP"].includes(codeOf(error) ?? "")) return null;
    throw error;
  }
}
