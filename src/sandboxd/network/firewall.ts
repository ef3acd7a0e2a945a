import type { RunId } from "../../ids.ts";
import { rulesGeneration } from "../../kernel/rules-generation.ts";
import type { Log } from "../../log.ts";
import { explain } from "../../protocol/lines/failure.ts";
import { createTurns } from "../../turns.ts";
import type { Runner } from "../runner.ts";
import type { NetworkNames } from "./names.ts";
import {
  createRules,
  TABLES,
  type Base,
  type FilteredRun,
  type FilterOptions,
  type RunPart,
  type Table,
} from "./rules.ts";
import { dropsIn, readShown, sumOfDrops, type Drops, type Shown } from "./shown.ts";
import {
  aheadIn,
  blockText,
  difference,
  entering,
  faultsIn,
  isSame,
  isWhole,
  leaving,
  NONE,
  rebuilt,
  reentering,
  type TableBlock,
  type Wanted,
} from "./transaction.ts";

const TIMEOUT_MS = 15_000;
/** How long iptables waits for others who change rules. */
const WAIT_S = "5";
/** How long a look at the rules may take. */
const LOOK_TIMEOUT_MS = 3_000;
/** Where the kernel has no number for the state of its rules, they are read so often. */
const READ_EVERY_MS = 1_000;
/** Those that walls are in; `nat` has none. */
const WALLS = ["raw", "filter"] as const;
const MAX_SAVED_BYTES = 32 * 1024 * 1024;

export interface Firewall {
  /** At a start: whose rules are to be there, and nobody else's. */
  settle(runs: readonly FilteredRun[], guarded: readonly string[]): Promise<void>;
  /** Whether any run's are there, or could not be taken away. */
  stands(): boolean;
  /** Which interfaces forward packets for us alone. */
  guard(interfaces: readonly string[]): Promise<void>;
  /** In force when this resolves; a run that has its rules keeps them, but for its lanes. What all have in common comes with the first. */
  ensure(run: FilteredRun): Promise<void>;
  /**
   * Takes a run's rules away. Packets of its interface are dropped from then on, as those of any that nobody knows, until
   * the last run's go, and all else with them.
   */
  remove(run: RunId): Promise<void>;
  /** Makes the host show just what it should; true when it did not. */
  mend(): Promise<boolean>;
  /**
   * Whether the walls of all runs that have some stand, without taking a turn, so that it waits for nobody. null: as they
   * did when they were looked at last, which costs next to nothing to find out.
   */
  look(): Promise<Look | null>;
  /** Puts our rules before those of others again, with their counts. */
  reorder(): Promise<void>;
  shown(): Promise<Shown>;
  /** Of a run's packets, also before its rules were made anew. */
  drops(run: NetworkNames): Promise<Drops>;
}

export interface Look {
  /** What is missing, or lets something pass. */
  readonly faults: readonly string[];
  /** What others have put before ours. */
  readonly ahead: readonly string[];
}

export interface FirewallOptions extends FilterOptions {
  readonly run: Runner;
  readonly log: Log;
}

/**
 * Changes are made in transactions, one a table, by `iptables-restore --noflush`, of whichever kind the host's own is.
 * What is there is known and not looked up, until a change fails: someone else has changed our chains then, and they are
 * read and made anew as they should be, in one transaction as well.
 */
export function createFirewall(options: FirewallOptions): Firewall {
  const { inst, run: command, log } = options;
  const rules = createRules(options);
  const turns = createTurns();
  const inTurn = <T>(work: () => Promise<T>) => turns.run("rules", work);
  const runs = new Map<RunId, FilteredRun>();
  /** Those whose rules are on the host and not being changed: what a look may judge. */
  const standing = new Map<RunId, FilteredRun>();
  /** What was counted by rules that were made anew since, which begin at nothing. */
  const counted = new Map<RunId, Drops>();
  const state: State = { isKnown: false, guarded: [], read: UNREAD };

  async function shown(): Promise<Shown> {
    const text = await command(["iptables-save", "-c"], {
      timeoutMs: TIMEOUT_MS,
      maxOutputBytes: MAX_SAVED_BYTES,
    });
    return readShown(text, inst);
  }

  async function apply(blocks: readonly TableBlock[]): Promise<void> {
    const stdin = blocks
      .filter(({ lines }) => lines.length > 0)
      .map(blockText)
      .join("");
    if (stdin === "") return;
    await command(["iptables-restore", "--noflush", "-w", WAIT_S], { timeoutMs: TIMEOUT_MS, stdin });
  }

  /**
   * Changes what is wanted, and by these lines the host; what tables have in common comes and goes by itself. When the
   * host turns out to show something else than before, it is made anew as it should be.
   */
  async function change({ want, take, lines }: Change): Promise<void> {
    const before = new Map(TABLES.map((table) => [table, baseIn(table)]));
    want();
    const blocks = TABLES.map((table) => {
      const [old, now] = [before.get(table) ?? NONE, baseIn(table)];
      const isNew = old.chains.length === 0;
      const isOver = now.chains.length === 0;
      const its = lines(table);
      const common = isNew ? entering(now) : its.length > 0 && !isOver ? reentering(old) : [];
      return { table, lines: [...common, ...its, ...(isOver ? leaving(old) : [])] };
    });
    try {
      if (!(await tried(blocks))) await rebuild(await shown());
    } catch (error) {
      take();
      throw error;
    }
  }

  /** While this is done, the host may show its rules as before or as after. */
  async function whileInFlux(id: RunId, work: () => Promise<void>): Promise<void> {
    standing.delete(id);
    try {
      await work();
    } finally {
      const now = runs.get(id);
      if (now !== undefined) standing.set(id, now);
    }
  }

  async function look(): Promise<Look | null> {
    if (standing.size === 0) return null;
    // Asked for first: what changes during the look is seen by the next.
    const generation = rulesGeneration();
    const isAsBefore =
      state.read.generation === null
        ? performance.now() - state.read.at < READ_EVERY_MS
        : state.read.generation === generation;
    if (isAsBefore) return null;
    state.read = { generation: null, at: performance.now() };
    const before = new Map(standing);
    const text = await command(["iptables-save"], {
      timeoutMs: LOOK_TIMEOUT_MS,
      maxOutputBytes: MAX_SAVED_BYTES,
    });
    const shown = readShown(text, inst);
    const steady = [...before].filter(([id, run]) => standing.get(id) === run).map(([, run]) => run);
    // What all have in common is there as long as any has its own.
    const judged = steady.length === 0 ? [] : WALLS;
    const found = judged.map((table) => {
      const base = rules.base(table, []);
      const parts = steady.map((run) => rules.part(table, run)).filter((part) => part !== null);
      return { faults: faultsIn({ base, parts }, shown[table]), ahead: aheadIn(base, shown[table]) };
    });
    const faults = found.flatMap((one) => one.faults);
    const ahead = found.flatMap((one) => one.ahead);
    const isWell = faults.length + ahead.length === 0;
    // What the other kind of iptables changes does not count.
    if (isWell && BY_NFT.test(text)) state.read = { ...state.read, generation };
    return { faults, ahead };
  }

  async function tried(blocks: readonly TableBlock[]): Promise<boolean> {
    const { isKnown } = state;
    state.isKnown = false;
    if (!isKnown) return false;
    try {
      await apply(blocks);
      state.isKnown = true;
    } catch (error) {
      log.warn("the packet filter is made anew", { why: explain(error) });
    }
    return state.isKnown;
  }

  /** Of the tables that are whole nothing is changed, and so their counts go on. */
  async function rebuild(now: Shown, torn = tornIn(now)): Promise<void> {
    state.isKnown = false;
    await apply(torn.map((table) => ({ table, lines: rebuilt(wanted(table), now[table]) })));
    state.isKnown = true;
    if (torn.includes("raw")) keepCounts(now);
  }

  function keepCounts(now: Shown): void {
    for (const [id, { names }] of runs) {
      const drops = sumOfDrops(counted.get(id) ?? [], dropsIn(now, names.chain));
      if (drops.length > 0) counted.set(id, drops);
    }
  }

  function tornIn(now: Shown): Table[] {
    return TABLES.filter((table) => !isWhole(wanted(table), now[table]));
  }

  function wanted(table: Table): Wanted {
    return { base: baseIn(table), parts: partsIn(table) };
  }

  function partsIn(table: Table): RunPart[] {
    return [...runs.values()].map((run) => rules.part(table, run)).filter((part) => part !== null);
  }

  /** A host that has `nat` tracks every connection: it has it only as long as there are lanes. */
  function baseIn(table: Table): Base {
    const isNeeded =
      runs.size > 0 && (table !== "nat" || [...runs.values()].some(({ lanes }) => lanes.length > 0));
    return isNeeded ? rules.base(table, state.guarded) : NONE;
  }

  return {
    settle: (live, guarded) =>
      inTurn(async () => {
        runs.clear();
        for (const run of live) runs.set(run.names.run, run);
        state.guarded = guarded;
        await rebuild(await shown());
        standing.clear();
        for (const [id, run] of runs) standing.set(id, run);
      }),

    stands: () => runs.size > 0,

    guard: (interfaces) =>
      inTurn(async () => {
        if (isSame(state.guarded, interfaces)) return;
        state.guarded = interfaces;
        await rebuild(await shown());
      }),

    ensure: (run) =>
      inTurn(async () => {
        const id = run.names.run;
        const before = runs.get(id);
        if (before !== undefined && sameLanes(before, run)) return;
        try {
          await whileInFlux(id, () =>
            change({
              want: () => runs.set(id, run),
              take: () => (before === undefined ? runs.delete(id) : runs.set(id, before)),
              lines: (table) =>
                difference(before === undefined ? null : rules.part(table, before), rules.part(table, run)),
            }),
          );
        } catch (error) {
          await shown()
            .then(rebuild)
            .catch((error: unknown) => log.error("the packet filter is not as it should be", { error }));
          throw error;
        }
      }),

    remove: (id) =>
      inTurn(async () => {
        const run = runs.get(id);
        if (run === undefined) return;
        await whileInFlux(id, () =>
          change({
            want: () => runs.delete(id),
            take: () => runs.set(id, run),
            lines: (table) => difference(rules.part(table, run), null),
          }),
        );
        counted.delete(id);
      }),

    mend: () =>
      inTurn(async () => {
        const now = await shown();
        const torn = tornIn(now);
        if (torn.length > 0) await rebuild(now, torn);
        state.read = UNREAD;
        return torn.length > 0;
      }),

    look,

    reorder: () =>
      inTurn(async () => {
        if (runs.size === 0) return;
        await apply(WALLS.map((table) => ({ table, lines: reentering(baseIn(table)) })));
      }),

    shown,

    drops: async ({ run, chain }) => sumOfDrops(counted.get(run) ?? [], dropsIn(await shown(), chain)),
  };
}

const UNREAD: State["read"] = { generation: null, at: -Infinity };
/** What iptables-save says of itself when its rules are nftables'. */
const BY_NFT = /^# Generated by .*\(nf_tables\)/m;

interface State {
  /** Whether the host shows what it should: false while it is changed, and when that failed. */
  isKnown: boolean;
  guarded: readonly string[];
  /** When the rules were last read to see whether they stand, and the kernel's number then, if they did and it counts. */
  read: { readonly generation: number | null; readonly at: number };
}

interface Change {
  /** What is wanted from now on, and how that is taken back. */
  readonly want: () => void;
  readonly take: () => void;
  readonly lines: (table: Table) => readonly string[];
}

function sameLanes(one: FilteredRun, other: FilteredRun): boolean {
  const text = ({ lanes }: FilteredRun) => lanes.map(({ address, port }) => `${address}:${port}`).join();
  return text(one) === text(other);
}
