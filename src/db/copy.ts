import { closeSync, fsyncSync, openSync, readdirSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import type { Client } from "@libsql/client/sqlite3";
import { AppError } from "../errors.ts";
import { renameDurably } from "../kernel/durable.ts";
import { statfs } from "../kernel/statfs.ts";

/** Copies that are kept, of the last upgrades. */
const KEPT = 2;
const MIB = 1024 * 1024;
/** For what SQLite needs besides. */
const ROOM_BYTES = 16 * MIB;

export interface CopyParts {
  readonly client: Pick<Client, "execute">;
  readonly file: string;
  readonly freeBytes?: (dir: string) => number;
}

/**
 * Puts a copy of the database beside it, `FILE.before-VERSION`, on the disk when this resolves. It blocks while it
 * copies, some 4 s for each GB.
 */
export async function copyBefore(
  { client, file, freeBytes = (dir) => statfs(dir).availableBytes }: CopyParts,
  version: number,
): Promise<string> {
  const dir = dirname(file);
  // The copy, and an upgrade that writes all of it anew.
  const needed = 2 * sizeOf(file) + sizeOf(`${file}-wal`) + ROOM_BYTES;
  const free = freeBytes(dir);
  if (free < needed) {
    throw new AppError(
      "no_space",
      `The upgrade of ${file}, which begins with a copy of it, takes ${toMib(needed)} MiB of free disk, and ` +
        `${dir} has ${toMib(free)}; free some and start again. Nothing was changed.`,
    );
  }
  const copy = `${file}.before-${version}`;
  const unfinished = `${file}.copying`;
  rmSync(unfinished, { force: true });
  // With its mode before it has content: it holds what the database does.
  closeSync(openSync(unfinished, "wx", statSync(file).mode & 0o777));
  await client.execute({ sql: "VACUUM INTO ?", args: [unfinished] });
  flush(unfinished);
  renameDurably(unfinished, copy);
  removeOlder(file);
  return copy;
}

function removeOlder(file: string): void {
  const name = `${basename(file)}.before-`;
  const versions = readdirSync(dirname(file))
    .filter((entry) => entry.startsWith(name) && /^\d+$/.test(entry.slice(name.length)))
    .map((entry) => Number(entry.slice(name.length)))
    .toSorted((a, b) => b - a);
  for (const version of versions.slice(KEPT)) rmSync(join(dirname(file), `${name}${version}`));
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}

function flush(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function toMib(bytes: number): number {
  return Math.ceil(bytes / MIB);
}
