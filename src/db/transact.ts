import Libsql from "libsql";

export interface PlainStatement {
  readonly sql: string;
  readonly args: readonly (string | number | null | Uint8Array)[];
}

/**
 * What is deleted is overwritten in the pages that are written anyway: the key of a deleted namespace above all. Older
 * copies of a page are in the write-ahead log until that begins anew.
 */
export const SECURE_DELETE = "PRAGMA secure_delete = FAST";

/** Different statements kept ready: the ledger's own few, and what changes of accounts come to. */
const KEPT = 200;

/**
 * A connection for short write transactions, each made at once and as a whole. It keeps its statements prepared, which
 * takes two thirds of their time off the ones that come with every call. SQLite has no quarrel between this and the
 * other connection, since neither keeps a transaction open while the event loop turns.
 */
export function openTransactions(file: string, busyTimeoutMs: number) {
  const connection = new Libsql(file, { timeout: busyTimeoutMs });
  connection.exec("PRAGMA synchronous = NORMAL");
  connection.exec(SECURE_DELETE);
  const [begin, commit, rollback] = ["BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"].map((sql) =>
    connection.prepare(sql),
  ) as [Prepared, Prepared, Prepared];
  const kept = new Map<string, Prepared>();

  function prepared(sql: string): Prepared {
    const known = kept.get(sql);
    if (known !== undefined) return known;
    if (kept.size >= KEPT) kept.clear();
    const fresh = connection.prepare(sql);
    kept.set(sql, fresh);
    return fresh;
  }

  return {
    /** All of them or, when it throws, none. */
    transact(statements: readonly PlainStatement[]): void {
      begin.run();
      try {
        for (const { sql, args } of statements) prepared(sql).run(args);
        commit.run();
      } catch (error) {
        // A full disk, for one, has SQLite roll back by itself.
        if (connection.inTransaction) rollback.run();
        throw error;
      }
    },

    close: () => void connection.close(),
  };
}

type Prepared = Libsql.Statement;
