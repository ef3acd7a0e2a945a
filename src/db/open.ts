import { closeSync, existsSync, openSync } from "node:fs";
import { createClient } from "@libsql/client/sqlite3";
import { drizzle } from "drizzle-orm/libsql/sqlite3";
import { AppError } from "../errors.ts";
import { copyBefore, type CopyParts } from "./copy.ts";
import { openTransactions, SECURE_DELETE, type PlainStatement } from "./transact.ts";
import { upgrade, type UpgradeParts } from "./upgrade.ts";
import { createWalSync } from "./wal-sync.ts";

const BUSY_TIMEOUT_MS = 5000;

/**
 * Where all is kept but the tenants' bytes: a file of this host, or a libSQL server (server/open.ts). drizzle's own calls
 * are for reads, and for writes of which the audit log says nothing.
 */
export type Database = Drizzle & DatabaseCalls;
type Drizzle = ReturnType<typeof drizzle>;

interface DatabaseCalls {
  readonly place: "file" | "server";
  /**
   * A write transaction, one at a time: all of the statements or, when it throws, none. After an OutcomeUnknown only
   * `outcome` tells.
   */
  transact(statements: readonly PlainStatement[]): void | Promise<void>;
  /**
   * Whether the transaction that ended by an OutcomeUnknown was made; if not, it never will be. Throws a 503 while
   * nobody can tell.
   */
  outcome(): Promise<boolean>;
  /** Resolves when all that was committed before this call is on the disk. */
  sync(): Promise<void>;
  /** Resolves when no such flush is under way, or the one that is has ended. */
  syncing(): Promise<void>;
  /** Throws a 503 while it is known not to answer, so that nobody waits for it, or goes by what was looked up before. */
  check(): void;
  /** It was away and is back. Who remembers what it holds looks again: what became of calls meanwhile was not heard. */
  onBack(listener: () => void): void;
  /** What is found wrong with it; empty when it is well. */
  faults(): Promise<string[]>;
  close(): void | Promise<void>;
}

/** Nothing of it is waited for. */
interface FileCalls extends DatabaseCalls {
  transact(statements: readonly PlainStatement[]): void;
  close(): void;
}

export interface OpenOptions extends Pick<UpgradeParts, "steps">, Pick<CopyParts, "freeBytes"> {
  /** Told before an upgrade, with the version it leads to: it may take long, and blocks. */
  readonly onUpgrade?: (version: number) => void;
}

/**
 * Opens the appliance's database in a file, making or upgrading it; a copy from before an upgrade stays beside it. Only
 * api does this, and only one api at a time.
 */
export async function openDatabase(
  file: string,
  { onUpgrade, freeBytes, steps }: OpenOptions = {},
): Promise<Drizzle & FileCalls> {
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
    await client.execute(SECURE_DELETE);
  } catch (error) {
    client.close();
    throw error;
  }
  const wal = createWalSync(file);
  const transactions = openTransactions(file, BUSY_TIMEOUT_MS);
  return Object.assign(drizzle(client), {
    place: "file" as const,
    /** Made at once. */
    transact: (statements: readonly PlainStatement[]) => transactions.transact(statements),
    outcome: () => Promise.reject(new Error("a transaction in a file is made or not, and says so")),
    sync: () => wal.sync(),
    syncing: () => wal.running(),
    check() {},
    onBack() {},
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
