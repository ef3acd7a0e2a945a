import { readFileSync, rmSync, statSync } from "node:fs";
import { AppError } from "../../errors.ts";
import { publish } from "../../setup.ts";
import { parseCredentials } from "./credentials.ts";
import { readPublished, type PublishedCredentials } from "./published.ts";

/**
 * Publishes what `storage.credentials_file` holds, as root; null takes away what there was. When the file is bad, what
 * was good before stays, with what is wrong, which is returned.
 */
export function publishCredentials(path: string, file: string | null): string | null {
  if (file === null) {
    rmSync(path, { force: true });
    return null;
  }
  const { text, fault } = readGood(file);
  const before = fault === null ? null : readPublished(path);
  const content: PublishedCredentials = { file, text: text ?? before?.text ?? null, fault };
  publish(path, JSON.stringify(content));
  return fault;
}

function readGood(file: string): { readonly text: string | null; readonly fault: string | null } {
  try {
    const stat = statSync(file);
    if (!stat.isFile()) throw new AppError("invalid", `${file} is not a file.`);
    if ((stat.mode & 0o007) !== 0) {
      throw new AppError("invalid", `${file} can be read by others; close it with: chmod 600 ${file}`);
    }
    const text = readFileSync(file, "utf8");
    parseCredentials(text, file);
    return { text, fault: null };
  } catch (error) {
    if (error instanceof AppError) return { text: null, fault: error.message };
    if (!(error instanceof Error) || !("code" in error)) throw error;
    const why =
      error.code === "ENOENT" ? "there is no such file" : `it cannot be read (${String(error.code)})`;
    return { text: null, fault: `[storage] credentials_file = "${file}": ${why}.` };
  }
}
