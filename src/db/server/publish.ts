import { X509Certificate } from "node:crypto";
import { readFileSync, rmSync, statSync } from "node:fs";
import type { DatabaseServer } from "../../config/database.ts";
import { AppError } from "../../errors.ts";
import { publish } from "../../instance/setup.ts";
import type { ServerCredentials } from "./wire.ts";
import { readPublishedServer, type PublishedServer } from "./published.ts";

/**
 * Publishes what the files of `[database]` hold, as root; null takes away what there was. When one is bad, what was good
 * before stays, with what is wrong, which is returned.
 */
export function publishServer(path: string, server: DatabaseServer | null): string | null {
  if (server === null) {
    rmSync(path, { force: true });
    return null;
  }
  const good = goodOf(server);
  const kept = typeof good === "string" ? readPublishedServer(path)?.good : good;
  const content: PublishedServer = { good: kept ?? null, fault: typeof good === "string" ? good : null };
  publish(path, JSON.stringify(content));
  return content.fault;
}

/** What the files of `[database]` hold. Throws a sentence when one is bad. */
export function readServerFiles({ tokenFile, caFile }: DatabaseServer): ServerCredentials {
  return {
    token: tokenFile === null ? null : readToken(tokenFile),
    ca: caFile === null ? null : readAuthorities(caFile),
  };
}

function goodOf(server: DatabaseServer): ServerCredentials | string {
  try {
    return readServerFiles(server);
  } catch (error) {
    if (error instanceof AppError) return error.message;
    throw error;
  }
}

function readToken(file: string): string {
  const text = read("auth_token_file", file);
  if ((statSync(file).mode & 0o007) !== 0) {
    throw new AppError("invalid", `${file} can be read by others; close it with: chmod 600 ${file}`);
  }
  const token = text.trim();
  // What goes into a header: anything else is a slip.
  if (/^[!-~]+$/.test(token)) return token;
  throw refusal("auth_token_file", file, "it holds no token: one line of plain text");
}

function readAuthorities(file: string): string {
  const text = read("ca_file", file);
  try {
    // It reads the first of them.
    if (new X509Certificate(text).ca) return text;
  } catch {}
  throw refusal("ca_file", file, "it holds no PEM certificate of an authority");
}

function read(setting: string, file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw refusal(setting, file, code === "ENOENT" ? "there is no such file" : `it cannot be read (${code})`);
  }
}

function refusal(setting: string, file: string, why: string): AppError {
  return new AppError("invalid", `[database] ${setting} = "${file}": ${why}.`);
}
