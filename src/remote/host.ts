import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { codeOf } from "../volumes/failure.ts";

/**
 * What a head says of whose it is: this data directory, in this boot of its machine. After a power cut the directory may
 * have less than was written to it, so files are fetched anew; over a restart of api alone they are not.
 */
export function hostOf(dir: string, bootId: string): string {
  const file = join(dir, "host-id");
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
