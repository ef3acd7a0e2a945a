import { AppError } from "../errors.ts";
import type { FilesystemStatus } from "../kernel/statfs.ts";

/** Of the files that a file system can hold, kept free along with the bytes; not every one has a fixed number. */
const FLOOR_FILES_SHARE = 0.01;
const FLOOR_FILES_MOST = 65_536;

/** Whether less than the floor would be free after `more` bytes. 0: there is no floor. */
export function isBelowFloor(
  { availableBytes, totalFiles, freeFiles }: FilesystemStatus,
  more: number,
  floorBytes: number,
): boolean {
  if (floorBytes === 0) return false;
  const floorFiles = Math.min(FLOOR_FILES_MOST, Math.floor(totalFiles * FLOOR_FILES_SHARE));
  return availableBytes - more < floorBytes || freeFiles < floorFiles;
}

/** Throws no_space there: what is left is the database's and the audit log's. */
export function checkFloor(status: FilesystemStatus, more: number, floorBytes: number): void {
  if (!isBelowFloor(status, more, floorBytes)) return;
  throw new AppError("no_space", "The disk is nearly full; delete something and try again.");
}
