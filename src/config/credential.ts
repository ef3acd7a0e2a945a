import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Environment } from "./environment.ts";

/** One of systemd's (LoadCredential=, LoadCredentialEncrypted=), in a directory that only its service sees; or null. */
export function credential(name: string, env: Environment): Uint8Array | null {
  const directory = env["CREDENTIALS_DIRECTORY"];
  if (directory === undefined) return null;
  try {
    // It is root's, and api reads it by a capability, which does not count when one asks whether it exists.
    return readFileSync(join(directory, name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}
