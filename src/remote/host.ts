import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { AppError, codeOf } from "../errors.ts";

/**
 * What a head says of whose it is: this data directory, in this boot of its machine. After a power cut the directory may
 * have less than was written to it, so files are fetched anew; over a restart of api alone they are not.
 */
export function hostOf(dir: string, bootId: string): string {
  const file = fileIn(dir);
  try {
    return `${readFileSync(file, "utf8").trim()} ${bootId}`;
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
    const id = crypto.randomUUID();
    writeFileSync(`${file}.new`, `${id}\n`, { mode: 0o600, flush: true });
    renameSync(`${file}.new`, file);
    return `${id} ${bootId}`;
  }
}

/** Out of S3 mode, an old copy of the files would pass for them, and what was written to that would be lost on the way back. */
export function refuseFilesElsewhere(dir: string): void {
  if (!existsSync(fileIn(dir))) return;
  throw new AppError(
    "invalid",
    "The files of this appliance are in a bucket, which [storage] does not name any more; on the disk is what was used last at best. " +
      `Put [storage] back; docs/s3-mode.md says how to leave a bucket. To start with what is on the disk all the same, remove ${fileIn(dir)}.`,
  );
}

function fileIn(dir: string): string {
  return join(dir, "host-id");
}
