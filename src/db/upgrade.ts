import type { Client, InStatement } from "@libsql/client/sqlite3";
import { AppError } from "../errors.ts";
import { migrations } from "./migrations.ts";

export interface UpgradeParts {
  readonly client: Pick<Client, "execute" | "batch">;
  /** What messages call the database. */
  readonly name: string;
  /** Keeps what has to be kept of a database that holds something, before it becomes one of this version. */
  readonly before: (version: number) => Promise<void>;
  /** A statement list for each version. */
  readonly steps?: typeof migrations;
}

/** Brings a database to the newest version in one transaction: whatever kills this leaves the old one or the new one. */
export async function upgrade({ client, name, before, steps = migrations }: UpgradeParts): Promise<void> {
  await client.execute(
    "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT",
  );
  const { rows } = await client.execute("SELECT coalesce(max(version), 0) FROM migrations");
  const version = Number(rows[0]?.[0]);
  if (version > steps.length) {
    throw new AppError(
      "invalid",
      `The database ${name} is of a newer Cofferdam (version ${version}, this one knows ${steps.length}); ` +
        "install that one again.",
    );
  }
  if (version === steps.length) return;
  if (version > 0) await before(steps.length);
  const statements = steps
    .slice(version)
    .flatMap((step, index): InStatement[] => [
      ...step,
      { sql: "INSERT INTO migrations VALUES (?, ?)", args: [version + index + 1, Date.now()] },
    ]);
  await client.batch(statements, "write");
}
