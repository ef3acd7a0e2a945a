import { readFileSync, unlinkSync } from "node:fs";

/**
 * The gateway's private key, which root opened for this start (src/instance/gateway-key.ts). It is on no disk, and from
 * here on in no file: a start that comes after this one gets it anew. null when root could not open it.
 */
export function takeKey(path: string): Uint8Array | null {
  try {
    const key = readFileSync(path);
    unlinkSync(path);
    return key;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}
