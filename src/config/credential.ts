import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Environment } from "./environment.ts";

/** One of systemd's (LoadCredential=, LoadCredentialEncrypted=), in a directory that only its service sees; or null. */
export function credential(name: string, env: Environment): Uint8Array | null {
  const directory = env["CREDENTIALS_DIRECTORY"];
  if (directory === undefined) return null;
  const file = join(directory, name);
  return existsSync(file) ? readFileSync(file) : null;
}
