import { AppError } from "../errors.ts";
import { isBelowFloor, type FilesystemStatus } from "../kernel/statfs.ts";

export type Floor = ReturnType<typeof createFloor>;

/** What the disk keeps free for the database and the audit log: below it nothing else is written. */
export function createFloor(parts: {
  readonly status: () => FilesystemStatus;
  readonly floorBytes: () => number;
}) {
  return {
    status: parts.status,
    bytes: parts.floorBytes,
    isAbove: (status: FilesystemStatus) => !isBelowFloor(status, parts.floorBytes()),
    /** Throws no_space when there is no room for `more` bytes. */
    check: (more = 0) => checkFloor(parts.status(), parts.floorBytes(), more),
  };
}

/** The same, of whichever file system it is. */
export function checkFloor(status: FilesystemStatus, floorBytes: number, more: number): void {
  if (!isBelowFloor(status, floorBytes, more)) return;
  throw new AppError("no_space", "The disk is nearly full; delete something and try again.");
}
