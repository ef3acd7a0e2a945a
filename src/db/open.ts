import { closeSync, openSync } from "node:fs";
import { createClient, type Client, type InStatement } from "@libsql/client/sqlite3";
import { drizzle } from "drizzle-orm/libsql/sqlite3";
import { AppError } from "../errors.ts";
import { migrations } from "./migrations.ts";

const BUSY_TIMEOUT_MS = 5000;

export type Database = Awaited<ReturnType<typeof openDatabase>>;

/** Opens the appliance's database, making or upgrading it. Only api does this, and only one api at a time. */
export async function openDatabase(file: string) {
  // SQLite would make it readable for all that the umask allows; it holds every key's hash.
  closeSync(openSync(file, "a", 0o600));
  const client = createClient({ url: `file:${file}`, timeout: BUSY_TIMEOUT_MS });
  try {
    // In WAL mode a commit is durable only with synchronous=FULL, which is what each connection of libSQL starts with.
    await client.execute("PRAGMA journal_mode = WAL");
    await migrate(client, file);
  } catch (error) {
    client.close();
    throw error;
  }
  return Object.assign(drizzle(client), {
    /** What SQLite finds wrong with the file; empty when it is well. */
    async faults(): Promise<string[]> {
      const { rows } = await client.execute("PRAGMA quick_check(10)");
      return rows.map((row) => row[0] as string).filter((text) => text !== "ok");
    },
    close: () => client.close(),
  });
}

async function migrate(client: Client, file: string): Promise<void> {
  await client.execute(
    "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT",
  );
  const { rows } = await client.execute("SELECT coalesce(max(version), 0) FROM migrations");
  const version = Number(rows[0]?.[0]);
  if (version > migrations.length) {
    throw new AppError(
      "invalid",
      `The database ${file} is of a newer Cofferdam (version ${version}, this one knows ${migrations.length}); ` +
        "install that one again.",
    );
  }
  for (const [index, statements] of migrations.slice(version).entries()) {
    const applied: InStatement = {
      sql: "INSERT INTO migrations VALUES (?, ?)",
      args: [version + index + 1, Date.now()],
    };
    await client.batch([...statements, applied], "write");
  }
}
