import { cString, NR, syscall } from "./libc.ts";

export interface FilesystemStatus {
  /** The magic number of statfs(2), 0xef53 for ext4. */
  readonly type: number;
  readonly totalBytes: number;
  /** What a process without privilege may still write. */
  readonly availableBytes: number;
  readonly totalFiles: number;
  readonly freeFiles: number;
}

/** The file system at a path or an open descriptor. */
export function statfs(target: string | number): FilesystemStatus {
  // struct statfs of x86-64: type, bsize, blocks, bfree, bavail, files, ffree, fsid, namelen, frsize, …
  const buffer = new BigInt64Array(new ArrayBuffer(120));
  if (typeof target === "number") syscall("fstatfs", NR.fstatfs, target, buffer);
  else syscall("statfs", NR.statfs, cString(target), buffer, 0, 0, 0, 0, target);
  const field = (index: number) => Number(buffer[index] ?? 0n);
  const blockBytes = field(9) || field(1);
  return {
    type: field(0),
    totalBytes: field(2) * blockBytes,
    availableBytes: field(4) * blockBytes,
    totalFiles: field(5),
    freeFiles: field(6),
  };
}

/** Inodes are kept free along with the bytes: a hundredth, of a small file system a tenth. Some count none. */
function floorFiles(totalFiles: number): number {
  const share = Math.max(totalFiles / 100, Math.min(4096, totalFiles / 10));
  return Math.floor(Math.min(65_536, share));
}

/** Whether less than the floor would be free after `more` bytes. With a floor of 0 there is none. */
export function isBelowFloor(
  {
    availableBytes,
    totalFiles,
    freeFiles,
  }: Pick<FilesystemStatus, "availableBytes" | "totalFiles" | "freeFiles">,
  floorBytes: number,
  more = 0,
): boolean {
  if (floorBytes === 0) return false;
  return availableBytes - more < floorBytes || freeFiles < floorFiles(totalFiles);
}
