import type { RunId } from "../../ids.ts";
import type { Log } from "../../log.ts";
import { explain } from "../../protocol/lines/failure.ts";
import { createTurns } from "../../turns.ts";
import type { Runner } from "../runner.ts";
import {
  createRules,
  TABLES,
  type Base,
  type FilteredRun,
  type FilterOptions,
  type RunPart,
  type Table,
} from "./rules.ts";
import { readShown, type Shown } from "./shown.ts";

const TIMEOUT_MS = 15_000;
/** How long iptables waits for others who change rules. */
const WAIT_S = "5";
const MAX_SAVED_BYTES = 32 * 1024 * 1024;

export interface Firewall {
  /** At a start: whose rules are to be there, and nobody else's. */
  settle(runs: readonly FilteredRun[], guarded: readonly string[]): Promise<void>;
  /** Puts there what all runs have in common: before the first one. */
  enter(): Promise<void>;
  /** Takes that away, when there is no run. */
  leave(): Promise<void>;
  /** Which interfaces forward packets for us alone. */
  guard(interfaces: readonly string[]): Promise<void>;
  /** In force when this resolves; a run that has its rules keeps them, but for its lanes. */
  ensure(run: FilteredRun): Promise<void>;
  /** Takes a run's rules away. Packets of its interface are dropped from then on, as those of any that nobody knows. */
  remove(run: RunId): Promise<void>;
  /** Makes the host show just what it should; true when it did not. */
  mend(): Promise<boolean>;
  shown(): Promise<Shown>;
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
  const state: State = { isKnown: false, entered: false, guarded: [] };

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

  /** Tries the difference alone, and all of it when what is there turns out to be something else. */
  async function change(difference: (table: Table) => readonly string[]): Promise<void> {
    const { isKnown } = state;
    state.isKnown = false;
    if (isKnown) {
      try {
        await apply(TABLES.map((table) => ({ table, lines: difference(table) })));
        state.isKnown = true;
        return;
      } catch (error) {
        log.warn("the packet filter is made anew", { why: explain(error) });
      }
    }
    await rebuild(await shown());
  }

  function partsIn(table: Table): RunPart[] {
    return [...runs.values()].map((run) => rules.part(table, run)).filter((part) => part !== null);
  }

  async function rebuild(now: Shown): Promise<void> {
    state.isKnown = false;
    await apply(TABLES.map((table) => ({ table, lines: rebuilt(table, now) })));
    state.isKnown = true;
  }

  function rebuilt(table: Table, now: Shown): string[] {
    const parts = partsIn(table);
    const base = baseIn(table);
    const want = [...base.chains, ...parts.map(({ chain }) => chain)];
    const names = new Set(want.map(({ name }) => name));
    const there = [...now[table].chains.keys()];
    return [
      ...[...new Set([...there, ...names])].map(declare),
      ...now[table].jumps.map(({ from, rule }) => `-D ${from} ${rule}`),
      ...want.flatMap(fill),
      ...parts.flatMap(enter),
      ...base.jumps.map(jumpTo),
      ...there.filter((name) => !names.has(name)).map((name) => `-X ${name}`),
    ];
  }

  /** A host that has `nat` tracks every connection: it has it only as long as there are lanes. */
  function baseIn(table: Table): Base {
    const isNeeded =
      state.entered && (table !== "nat" || [...runs.values()].some(({ lanes }) => lanes.length > 0));
    return isNeeded ? rules.base(table, state.guarded) : { chains: [], jumps: [] };
  }

  function leaving(table: Table): string[] {
    const { chains, jumps } = baseIn(table);
    return [
      ...chains.map(({ name }) => declare(name)),
      ...jumps.map(({ from, to }) => `-D ${from} -j ${to}`),
      ...chains.map(({ name }) => `-X ${name}`),
    ];
  }

  function added(table: Table, run: FilteredRun): string[] {
    const part = rules.part(table, run);
    return part === null ? [] : [declare(part.chain.name), ...fill(part.chain), ...enter(part)];
  }

  function taken(table: Table, run: FilteredRun): string[] {
    const part = rules.part(table, run);
    if (part === null) return [];
    const { name } = part.chain;
    return [declare(name), ...part.entries.map(({ chain, rule }) => `-D ${chain} ${rule}`), `-X ${name}`];
  }

  return {
    settle: (live, guarded) =>
      inTurn(async () => {
        runs.clear();
        for (const run of live) runs.set(run.names.run, run);
        state.entered = runs.size > 0;
        state.guarded = guarded;
        const now = await shown();
        if (TABLES.every((table) => isWhole(table, now))) state.isKnown = true;
        else await rebuild(now);
      }),

    enter: () =>
      inTurn(async () => {
        if (state.entered) return;
        state.entered = true;
        try {
          await change((table) => {
            const { chains, jumps } = baseIn(table);
            return [
              ...chains.map(({ name }) => declare(name)),
              ...chains.flatMap(fill),
              ...jumps.map(jumpTo),
            ];
          });
        } catch (error) {
          state.entered = false;
          throw error;
        }
      }),

    leave: () =>
      inTurn(async () => {
        if (!state.entered || runs.size > 0) return;
        const lines = new Map(TABLES.map((table) => [table, leaving(table)]));
        state.entered = false;
        try {
          await change((table) => lines.get(table) ?? []);
        } catch (error) {
          state.entered = true;
          throw error;
        }
      }),

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
        runs.set(id, run);
        try {
          if (before === undefined) await change((table) => added(table, run));
          // Its lanes change the tables that are needed, too.
          else await rebuild(await shown());
        } catch (error) {
          if (before === undefined) runs.delete(id);
          else runs.set(id, before);
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
        runs.delete(id);
        try {
          if (run.lanes.length === 0) await change((table) => taken(table, run));
          else await rebuild(await shown());
        } catch (error) {
          runs.set(id, run);
          throw error;
        }
      }),

    mend: () =>
      inTurn(async () => {
        const now = await shown();
        if (TABLES.every((table) => isWhole(table, now))) return false;
        await rebuild(now);
        return true;
      }),

    shown,
  };

  /** By the rules' targets: what others do by mistake is to flush our chains, not to rewrite them. */
  function isWhole(table: Table, { [table]: now }: Shown): boolean {
    const parts = partsIn(table);
    const base = baseIn(table);
    const want = new Map(
      [...base.chains, ...parts.map(({ chain }) => chain)].map(({ name, rules }) => [
        name,
        rules.map(targetOf),
      ]),
    );
    for (const { chain, rule } of parts.flatMap(({ entries }) => entries))
      want.get(chain)?.push(targetOf(rule));
    const shownJumps = now.jumps.map(({ from, to }) => `${from} ${to}`);
    return (
      now.chains.size === want.size &&
      [...want].every(([name, targets]) => {
        const there = now.chains.get(name)?.map(({ target }) => target);
        return there !== undefined && isSame(there, targets);
      }) &&
      isSame(
        shownJumps,
        base.jumps.map(({ from, to }) => `${from} ${to}`),
      )
    );
  }
}

interface State {
  /** Whether the host shows what it should: false while it is changed, and when that failed. */
  isKnown: boolean;
  /** Whether what all runs have in common is to be there. */
  entered: boolean;
  guarded: readonly string[];
}

interface TableBlock {
  readonly table: Table;
  readonly lines: readonly string[];
}

function blockText({ table, lines }: TableBlock): string {
  return `*${table}\n${lines.join("\n")}\nCOMMIT\n`;
}

/** Made where it is not there, and emptied. */
function declare(chain: string): string {
  return `:${chain} - [0:0]`;
}

function fill({ name, rules }: { name: string; rules: readonly string[] }): string[] {
  return rules.map((rule) => `-A ${name} ${rule}`);
}

function enter({ entries }: RunPart): string[] {
  return entries.map(({ chain, rule }) => `-I ${chain} 1 ${rule}`);
}

function jumpTo({ from, to }: { from: string; to: string }): string {
  return `-I ${from} 1 -j ${to}`;
}

function targetOf(rule: string): string {
  return /(?:^| )-[jg] (\S+)/.exec(rule)?.[1] ?? "";
}

/** In any order: runs' entries come in the order of their starts. */
function isSame(one: readonly string[], other: readonly string[]): boolean {
  return one.toSorted().join("\n") === other.toSorted().join("\n");
}

function sameLanes(one: FilteredRun, other: FilteredRun): boolean {
  const text = ({ lanes }: FilteredRun) => lanes.map(({ address, port }) => `${address}:${port}`).join();
  return text(one) === text(other);
}
