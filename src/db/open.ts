import { closeSync, existsSync, openSync } from "node:fs";
import { createClient } from "@libsql/client/sqlite3";
import { drizzle } from "drizzle-orm/libsql/sqlite3";
import { AppError } from "../errors.ts";
import { copyBefore, type CopyParts } from "./copy.ts";
import { openTransactions, type PlainStatement } from "./transact.ts";
import { upgrade, type UpgradeParts } from "./upgrade.ts";
import { createWalSync } from "./wal-sync.ts";

const BUSY_TIMEOUT_MS = 5000;

export type Database = Awaited<ReturnType<typeof openDatabase>>;

export interface OpenOptions extends Pick<UpgradeParts, "steps">, Pick<CopyParts, "freeBytes"> {
  /** Told before an upgrade, with the version it leads to: it may take long, and blocks. */
  readonly onUpgrade?: (version: number) => void;
}

/**
 * Opens the appliance's database, making or upgrading it; a copy from before an upgrade stays beside it. Only api does
 * this, and only one api at a time.
 */
export async function openDatabase(file: string, { onUpgrade, freeBytes, steps }: OpenOptions = {}) {
  // SQLite would make it readable for all that the umask allows; it holds every key's hash.
  closeSync(openSync(file, "a", 0o600));
  // One connection in its pool: a PRAGMA reaches no more, and a second would only wait for the first.
  const client = createClient({ url: `file:${file}`, timeout: BUSY_TIMEOUT_MS, concurrency: 1 });
  try {
    await client.execute("PRAGMA journal_mode = WAL");
    await upgrade({
      client,
      name: file,
      async before(version) {
        onUpgrade?.(version);
        await copyBefore({ client, file, ...(freeBytes === undefined ? {} : { freeBytes }) }, version);
      },
      ...(steps === undefined ? {} : { steps }),
    });
    // From here on a commit survives this process's death at once, and a power cut after `sync`.
    await client.execute("PRAGMA synchronous = NORMAL");
  } catch (error) {
    client.close();
    throw error;
  }
  const wal = createWalSync(file);
  const transactions = openTransactions(file, BUSY_TIMEOUT_MS);
  return Object.assign(drizzle(client), {
    /** A write transaction, made at once: all of the statements or, when it throws, none. */
    transact: (statements: readonly PlainStatement[]) => transactions.transact(statements),
    /** Resolves when all that was committed before this call is on the disk. */
    sync: () => wal.sync(),
    /** Resolves when no such flush is under way, or the one that is has ended. */
    syncing: () => wal.running(),
    /** What SQLite finds wrong with the file; empty when it is well. */
    async faults(): Promise<string[]> {
      const { rows } = await client.execute("PRAGMA quick_check(10)");
      return rows.map((row) => row[0] as string).filter((text) => text !== "ok");
    },
    close(): void {
      transactions.close();
      client.close();
      wal.close();
    },
  });
}

/** A copy of the appliance's database, to read only. Throws an AppError when there is none. */
export async function openCopy(file: string) {
  if (!existsSync(file)) throw new AppError("not_found", `There is no database ${file}.`);
  const client = createClient({ url: `file:${file}`, timeout: BUSY_TIMEOUT_MS, concurrency: 1 });
  try {
    await client.execute("PRAGMA query_only = ON");
    await client.execute("SELECT version FROM migrations LIMIT 1");
  } catch (error) {
    client.close();
    throw new AppError("invalid", `${file} is no database of Cofferdam's.`, { cause: error });
  }
  return Object.assign(drizzle(client), { close: () => client.close() });
}
