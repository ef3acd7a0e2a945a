import type { Client, InStatement } from "@libsql/client/http";
import { AppError } from "../../errors.ts";

/*
 * One appliance at a time writes to a database. Its claim is a row; every transaction of the ledger moves the row's turn
 * on from the one before, or fails. So an appliance that another has taken over from can't write beside it, a transaction
 * that arrives late finds its turn gone, and the row tells afterwards whether one was made.
 */

const TABLE = `CREATE TABLE IF NOT EXISTS claim (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  holder TEXT NOT NULL,
  place TEXT NOT NULL,
  mark TEXT NOT NULL,
  turn INTEGER NOT NULL,
  beat INTEGER NOT NULL
) STRICT`;

export interface ClaimParts {
  readonly client: Pick<Client, "execute">;
  /** Another for each process. */
  readonly holder: string;
  /** The host and the instance: the next process of the same one takes over at once. */
  readonly place: string;
  /** The same for all hosts of one appliance, and no other's. */
  readonly mark: string;
}

interface Row {
  readonly holder: string;
  readonly place: string;
  readonly mark: string;
  readonly turn: number;
  readonly beat: number;
}

/** From one turn to the next. */
export interface Move {
  readonly before: number;
  readonly after: number;
}

/** Nobody's: given back. */
const NOBODY = "";
const LOOK_EVERY_MS = 500;

export function createClaim({ client, holder, place, mark }: ClaimParts) {
  async function read(): Promise<Row | null> {
    const { rows } = await client.execute("SELECT holder, place, mark, turn, beat FROM claim WHERE id = 1");
    const [row] = rows;
    if (row === undefined) return null;
    return {
      holder: row["holder"] as string,
      place: row["place"] as string,
      mark: row["mark"] as string,
      turn: Number(row["turn"]),
      beat: Number(row["beat"]),
    };
  }

  /** The row, if it is still ours. */
  async function ours(): Promise<Row> {
    const row = await read();
    if (row === null)
      throw new ClaimLost("its claim on the database is gone: somebody removed it", "invalid");
    if (row.holder === holder) return row;
    throw new ClaimLost(`another Cofferdam (${row.place}) has taken over the database`, "invalid");
  }

  /** Succeeds only while the row is as it was seen. */
  async function replace(seen: Row): Promise<void> {
    await client.execute({
      sql: `UPDATE claim SET holder = ?, place = ?, turn = turn + 1, beat = beat + 1
            WHERE id = 1 AND holder = ? AND turn = ? AND beat = ?`,
      args: [holder, place, seen.holder, seen.turn, seen.beat],
    });
  }

  async function isSilent(seen: Row, silentMs: number): Promise<boolean> {
    const until = performance.now() + silentMs;
    while (performance.now() < until) {
      await Bun.sleep(Math.min(LOOK_EVERY_MS, silentMs));
      const now = await read();
      if (now?.holder !== seen.holder || now.turn !== seen.turn || now.beat !== seen.beat) return false;
    }
    return true;
  }

  return {
    /**
     * The turn to begin from. Of one that another place holds only once that has been silent for so long; throws when
     * it is not. Safe to call again after a failure.
     */
    async take(silentMs: number): Promise<number> {
      await client.execute(TABLE);
      await client.execute({
        sql: "INSERT INTO claim VALUES (1, ?, ?, ?, 0, 0) ON CONFLICT DO NOTHING",
        args: [NOBODY, place, mark],
      });
      for (;;) {
        const seen = await read();
        if (seen === null) throw new Error("the claim was removed while it was taken");
        if (seen.mark !== mark) throw anotherAppliance();
        if (seen.holder === holder) return seen.turn;
        const isFree = seen.holder === NOBODY || seen.place === place || (await isSilent(seen, silentMs));
        // In vain when the one before gave it back in this moment, or another was faster.
        if (isFree) await replace(seen);
        else if ((await read())?.holder !== NOBODY) throw inUse(seen.place);
      }
    },

    /** First in a transaction, which it makes fail when the claim is not ours or its turn is another. */
    advance: ({ before, after }: Move): InStatement => ({
      // NULL, which the column refuses: a statement that changes no row would not stop the transaction.
      sql: "UPDATE claim SET turn = iif(holder = ? AND turn = ?, ?, NULL) WHERE id = 1",
      args: [holder, before, after],
    }),

    /** Shows that this process lives. Throws a ClaimLost when the claim is another's. */
    async beat(): Promise<void> {
      const { rowsAffected } = await client.execute({
        sql: "UPDATE claim SET beat = beat + 1 WHERE id = 1 AND holder = ?",
        args: [holder],
      });
      if (rowsAffected !== 1) await ours();
    },

    /**
     * Whether a transaction with this move was made. If it was not, it never will be: the turn is then moved on to
     * `instead`. Safe to call again after a failure.
     */
    async settle({ before, after }: Move, instead: number): Promise<boolean> {
      const known = (turn: number) => (turn === after ? true : turn === instead ? false : null);
      const found = await ours();
      const made = known(found.turn);
      if (made !== null) return made;
      if (found.turn === before) {
        const move = { sql: "UPDATE claim SET turn = ? WHERE id = 1 AND holder = ? AND turn = ?" };
        await client.execute({ ...move, args: [instead, holder, before] });
        const now = known((await ours()).turn);
        if (now !== null) return now;
      }
      throw new ClaimLost(
        "the database went back to an earlier state, without what was done since",
        "conflict",
      );
    },

    async release(): Promise<void> {
      await client.execute({
        sql: "UPDATE claim SET holder = ?, turn = turn + 1 WHERE id = 1 AND holder = ?",
        args: [NOBODY, holder],
      });
    },
  };
}

/** This process may not go on. The code tells whether another start would mend it. */
export class ClaimLost extends Error {
  readonly code: "invalid" | "conflict";

  constructor(why: string, code: "invalid" | "conflict") {
    super(why);
    this.name = "ClaimLost";
    this.code = code;
  }
}

function inUse(place: string): AppError {
  return new AppError(
    "invalid",
    `Another Cofferdam (${place}) works with the database of [database] url; stop that one first. ` +
      "One that died is waited for by itself, some 15 s.",
  );
}

function anotherAppliance(): AppError {
  return new AppError(
    "invalid",
    "The database of [database] url belongs to another appliance: its keys are not this one's. " +
      "Restore that one's keyring and master.key, or name an empty database.",
  );
}
