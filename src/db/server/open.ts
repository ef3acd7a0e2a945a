import { createClient, LibsqlBatchError } from "@libsql/client/http";
import { drizzle } from "drizzle-orm/libsql/sqlite3";
import { AppError } from "../../errors.ts";
import type { Log } from "../../log.ts";
import type { Database } from "../open.ts";
import type { PlainStatement } from "../transact.ts";
import { upgrade } from "../upgrade.ts";
import { ClaimLost, createClaim, type ClaimParts, type Move } from "./claim.ts";
import { OutcomeUnknown } from "./outcome.ts";
import { away, createWire, DeadlinePassed, TokenRefused, type WireParts } from "./wire.ts";

export interface ServerParts
  extends Pick<WireParts, "url" | "credentials" | "after">, Pick<ClaimParts, "place" | "mark"> {
  readonly log: Log;
  /** Told again and again while the start waits for the server. */
  readonly onWaiting: () => void;
  /** This process may not go on: its claim on the database is gone. Every call gets a 503 from now on. */
  readonly onLost: (error: AppError) => void;
  readonly times?: Partial<typeof TIMES>;
}

const TIMES = {
  /** For every call; and for an upgrade, which may make large tables anew. */
  deadlineMs: 5_000,
  upgradeMs: 30 * 60_000,
  /** Between two tries while it is away. */
  retryMs: 500,
  beatMs: 4_000,
  /** Without a sign of life for so long, nothing is answered before the next one: another may have taken over. */
  leaseMs: 10_000,
  /** And that one waits longer. */
  silentMs: 15_000,
  sayEveryMs: 30_000,
};

/** Calls under way at once. */
const CONCURRENCY = 32;

/** A transaction of which nobody knows yet whether it was made. */
interface Doubt {
  readonly move: Move;
  /** The turn that is taken instead when it was not. */
  readonly instead: number;
  made: boolean | null;
}

type State =
  | { readonly kind: "up" }
  | { readonly kind: "away"; readonly why: AppError }
  | { readonly kind: "lost"; readonly why: AppError }
  | { readonly kind: "closed"; readonly why: AppError };

/**
 * A libSQL server's database, claimed for this process. Waits until the server answers; throws when that would not help.
 * What the server acknowledged survives the server's death, and a power cut of its host as far as it promises that.
 */
export async function openServer(parts: ServerParts): Promise<Database> {
  const { url, credentials, log, place, mark } = parts;
  const times = { ...TIMES, ...parts.times };
  const wire = createWire({ ...parts, deadlineMs: times.deadlineMs });
  const clientOver = (fetch: (request: Request) => Promise<Response>) =>
    createClient({ url, fetch, concurrency: CONCURRENCY });

  /** For the claim alone, which is looked at also while the database counts as away. */
  const direct = clientOver(wire.fetch);
  const claim = createClaim({ client: direct, holder: crypto.randomUUID(), place, mark });
  const listeners = new Set<() => void>();
  const turn = { now: 0, last: 0 };
  const doubt = { open: null as Doubt | null };
  let state: State = { kind: "up" };
  let beatenAt = 0;
  let recovery: Promise<void> | null = null;

  const nextTurn = () => (turn.last = Math.max(turn.last, turn.now) + 1);

  function check(): void {
    if (state.kind !== "up") throw state.why;
    if (performance.now() - beatenAt <= times.leaseMs) return;
    const why = away("it was not heard of for too long");
    fell(why);
    throw why;
  }

  /** From here on calls fail at once, until a try of ours succeeds. */
  function fell(why: AppError): void {
    if (state.kind !== "up") return;
    state = { kind: "away", why };
    log.warn("the database server is away; calls get 503 until it is back", { why });
    void comeBack();
  }

  async function comeBack(): Promise<void> {
    while (state.kind === "away") {
      await Bun.sleep(times.retryMs);
      await recover().catch(() => {});
    }
  }

  /** One try. What hangs in doubt is settled before anything else may look. */
  function recover(): Promise<void> {
    recovery ??= tryOnce().finally(() => (recovery = null));
    return recovery;
  }

  async function tryOnce(): Promise<void> {
    try {
      do {
        if (doubt.open !== null) await settle(doubt.open);
        await beat();
      } while (doubt.open?.made === null);
    } catch (error) {
      if (error instanceof ClaimLost) lose(error);
      throw error;
    }
    if (state.kind !== "away") return;
    state = { kind: "up" };
    log.info("the database server is back");
    for (const listener of listeners) listener();
  }

  async function settle(open: Doubt): Promise<void> {
    if (open.made !== null) return;
    open.made = await claim.settle(open.move, open.instead);
    turn.now = open.made ? open.move.after : open.instead;
  }

  async function beat(): Promise<void> {
    const began = performance.now();
    await claim.beat();
    beatenAt = began;
  }

  function lose(error: ClaimLost): void {
    if (state.kind === "lost" || state.kind === "closed") return;
    const why = new AppError("unavailable", `This appliance stops: ${error.message}.`, { retryAfterS: 30 });
    state = { kind: "lost", why };
    parts.onLost(new AppError(error.code, `This appliance stops: ${error.message}.`));
  }

  async function guarded(request: Request): Promise<Response> {
    check();
    try {
      return await wire.fetch(request);
    } catch (error) {
      if (error instanceof AppError) fell(error);
      throw error;
    }
  }

  const client = clientOver(guarded);

  async function transact(statements: readonly PlainStatement[]): Promise<void> {
    check();
    if (doubt.open !== null)
      throw new Error("a transaction was begun before the outcome of the last was asked for");
    const move = { before: turn.now, after: nextTurn() };
    try {
      const all = [claim.advance(move), ...statements.map(({ sql, args }) => ({ sql, args: [...args] }))];
      await client.batch(all, "write");
      turn.now = move.after;
    } catch (error) {
      // One of its own statements failed, and so none of them was made.
      if (error instanceof LibsqlBatchError && error.statementIndex > 0) throw error;
      await clarify(move, error);
    }
  }

  /** Resolves when the transaction was made after all. */
  async function clarify(move: Move, error: unknown): Promise<void> {
    const open: Doubt = { move, instead: nextTurn(), made: null };
    doubt.open = open;
    fell(error instanceof AppError ? error : away("a transaction failed", error));
    // A connection that was cut says nothing of the server; one that hangs will do so again.
    if (!(error instanceof DeadlinePassed)) await recover().catch(() => {});
    if (open.made === null) throw new OutcomeUnknown(error);
    doubt.open = null;
    if (!open.made) throw error instanceof AppError ? error : away("a transaction failed", error);
  }

  async function start(): Promise<void> {
    turn.now = await patiently(() => claim.take(times.silentMs));
    beatenAt = performance.now();
    await patiently(async () => {
      const slow = createWire({ url, credentials, deadlineMs: times.upgradeMs });
      try {
        await upgrade({
          client: clientOver(slow.fetch),
          name: "of [database] url",
          async before(version) {
            log.warn("the server's database is upgraded, of which no copy is made; docs/database.md", {
              version,
            });
          },
        });
      } finally {
        slow.close();
      }
    });
    await patiently(beat);
  }

  /** Tries until the server answers. */
  async function patiently<T>(work: () => Promise<T>): Promise<T> {
    for (let saidAt = Number.NEGATIVE_INFINITY; ;) {
      try {
        return await work();
      } catch (error) {
        if (error instanceof TokenRefused) throw new AppError("invalid", TOKEN_REFUSED, { cause: error });
        if (!(error instanceof AppError) || error.code !== "unavailable") throw error;
        parts.onWaiting();
        if (performance.now() - saidAt > times.sayEveryMs) {
          log.warn("waits for the database server", { url, why: error });
          saidAt = performance.now();
        }
        await Bun.sleep(times.retryMs);
      }
    }
  }

  try {
    await start();
  } catch (error) {
    await claim.release().catch(() => {});
    wire.close();
    if (error instanceof ClaimLost) throw new AppError("invalid", `${error.message}; start again.`);
    throw error;
  }
  const beating = setInterval(() => {
    if (state.kind === "up") {
      recover().catch((error: unknown) => {
        if (error instanceof AppError) fell(error);
      });
    }
  }, times.beatMs);

  return Object.assign(drizzle(client), {
    place: "server" as const,
    transact,
    async outcome(): Promise<boolean> {
      check();
      const made = doubt.open?.made ?? null;
      if (made === null) throw new Error("no transaction is in doubt");
      doubt.open = null;
      return made;
    },
    // The server's business, and done when it has acknowledged.
    sync: async () => {},
    syncing: async () => {},
    check,
    onBack: (listener: () => void) => void listeners.add(listener),
    async faults(): Promise<string[]> {
      await client.execute("SELECT 1 FROM heads LIMIT 1");
      return [];
    },
    async close(): Promise<void> {
      clearInterval(beating);
      state = { kind: "closed", why: away("it was closed") };
      await claim.release().catch(() => {});
      wire.close();
    },
  });
}

const TOKEN_REFUSED =
  "The database server refuses the token in [database] auth_token_file: make a new one, and start again.";
