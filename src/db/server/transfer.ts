import { rmSync } from "node:fs";
import { createClient, type Client } from "@libsql/client/http";
import { AppError } from "../../errors.ts";
import { insertion, pagesOf, quoted, tablesOf, type Reader } from "../rows.ts";
import { openDatabase, type Database } from "../open.ts";
import { upgrade } from "../upgrade.ts";
import { createWire, type ServerCredentials } from "./wire.ts";

/** Of one page, which is read or written as a whole. */
const DEADLINE_MS = 60_000;

/**
 * Fills a server's database, which no appliance has used yet, with the rows of a file's; how many. Cut short it can be
 * begun again.
 */
export async function fillServer(
  file: Reader,
  server: { readonly url: string; readonly credentials: ServerCredentials },
): Promise<number> {
  const { url, credentials } = server;
  const wire = createWire({ url, credentials: () => credentials, deadlineMs: DEADLINE_MS });
  const client = createClient({ url, fetch: wire.fetch });
  try {
    await refuseUsed(client);
    await upgrade({ client, name: "of [database] url", before: async () => {} });
    const tables = await tablesOf(file);
    // What an earlier try left. Those first that refer to others.
    await client.batch(
      tables.toReversed().map(({ name }) => `DELETE FROM ${quoted(name)}`),
      "write",
    );
    return await copyRows(file, client);
  } finally {
    wire.close();
  }
}

/** Copies a server's database as it is at one moment to a new file, 0600; how many rows. */
export async function copyFromServer(db: Pick<Database, "$client">, file: string): Promise<number> {
  let rows: number;
  try {
    rows = await copyMoment(db, file);
  } catch (error) {
    rmSync(file, { force: true });
    throw error;
  } finally {
    for (const end of ["-wal", "-shm"]) rmSync(file + end, { force: true });
  }
  return rows;
}

async function copyMoment(db: Pick<Database, "$client">, file: string): Promise<number> {
  const copy = await openDatabase(file);
  const moment = await db.$client.transaction("read");
  try {
    const rows = await copyRows(moment, copy.$client);
    await copy.$client.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    return rows;
  } finally {
    moment.close();
    copy.close();
  }
}

async function copyRows(from: Reader, to: Pick<Client, "batch">): Promise<number> {
  let rows = 0;
  for (const table of await tablesOf(from)) {
    for await (const page of pagesOf(from, table)) {
      await to.batch(
        page.map((row) => insertion(table, row)),
        "write",
      );
      rows += page.length;
    }
  }
  return rows;
}

async function refuseUsed(client: Reader): Promise<void> {
  const { rows } = await client.execute("SELECT name FROM sqlite_schema WHERE type = 'table'");
  const names = new Set(rows.map((row) => row["name"]));
  if (names.has("claim")) {
    throw new AppError(
      "conflict",
      "An appliance works with the database of [database] url already; name an empty one.",
    );
  }
  if (names.size > 0 && !names.has("migrations")) {
    throw new AppError("conflict", "The database of [database] url holds something else; name an empty one.");
  }
}
