import { closeSync, openSync, rmSync } from "node:fs";
import Libsql from "libsql/promise";
import { AppError } from "../errors.ts";

/**
 * Copies the database as it is at one moment to a new file, on a thread of libSQL's: neither calls nor writes wait.
 * The copy holds nothing that was deleted, and is in one file.
 */
export async function copyOnline(from: string, to: string): Promise<void> {
  // With its mode before it has content: it holds what the database does.
  closeSync(openSync(to, "wx", 0o600));
  const connection = new Libsql(from, {});
  try {
    await connection.exec(`VACUUM INTO '${to.replaceAll("'", "''")}'`);
  } catch (error) {
    rmSync(to, { force: true });
    if (!/\bfull\b/.test(String(error))) throw error;
    throw new AppError(
      "no_space",
      "The disk has no room for a copy of the database; free some and try again.",
      {
        cause: error,
      },
    );
  } finally {
    connection.close();
  }
}
