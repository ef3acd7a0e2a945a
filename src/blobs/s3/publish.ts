import { readFileSync, rmSync, statSync } from "node:fs";
import { AppError } from "../../errors.ts";
import { publish } from "../../instance/setup.ts";
import { parseCredentials } from "./credentials.ts";
import type { PublishedCredentials } from "./published.ts";

/** Throws a sentence that says what is wrong with it. */
export function checkCredentials(file: string): void {
  const content = read(file);
  if ("fault" in content) throw new AppError("invalid", content.fault);
}

/**
 * Publishes what `storage.credentials_file` holds, as root, or what is wrong with it, which it returns. null takes away
 * what there was.
 */
export function publishCredentials(path: string, file: string | null): string | null {
  if (file === null) {
    rmSync(path, { force: true });
    return null;
  }
  const content = read(file);
  publish(path, JSON.stringify(content));
  return "fault" in content ? content.fault : null;
}

function read(file: string): PublishedCredentials {
  try {
    const stat = statSync(file);
    if (!stat.isFile()) return { fault: `[storage] credentials_file = "${file}" is not a file.` };
    if ((stat.mode & 0o007) !== 0) {
      return { fault: `${file} is open to everyone; close it with: chmod 600 ${file}` };
    }
    const text = readFileSync(file, "utf8");
    parseCredentials(text, file);
    return { file, text };
  } catch (error) {
    if (error instanceof AppError) return { fault: error.message };
    if (!(error instanceof Error) || !("code" in error)) throw error;
    const why =
      error.code === "ENOENT" ? "there is no such file" : `it cannot be read (${String(error.code)})`;
    return { fault: `[storage] credentials_file = "${file}": ${why}.` };
  }
}
