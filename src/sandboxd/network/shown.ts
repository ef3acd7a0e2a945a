import type { InstanceTag, RunId } from "../../ids.ts";
import { dropReason, type DropReason, type RunFate } from "../../protocol/sandboxd.ts";
import { chainPrefix, runOfChain } from "./names.ts";
import { TABLES, type Lane, type Table } from "./rules.ts";

/** What `iptables-save`, with or without counts, shows of this instance in one table. */
export interface ShownTable {
  readonly chains: ReadonlyMap<string, readonly ShownRule[]>;
  /** From the kernel's chains, or anybody's, into ours; as often as they are there. */
  readonly jumps: readonly ShownJump[];
}

export interface ShownJump {
  readonly from: string;
  readonly rule: string;
  readonly to: string;
  /** The first of somebody else's rules that packets come to before it; null when there is none. */
  readonly behind: string | null;
}

export interface ShownRule {
  /** As after "-A CHAIN". */
  readonly text: string;
  readonly target: string;
  readonly packets: number;
}

const OF_AN_INSTANCE = /^CD[0-9a-f]{4}-/;

export type Shown = Readonly<Record<Table, ShownTable>>;

export function readShown(text: string, inst: InstanceTag): Shown {
  const prefix = chainPrefix(inst);
  const empty = () => ({ chains: new Map<string, ShownRule[]>(), jumps: [] as ShownJump[] });
  const shown = { raw: empty(), filter: empty(), nat: empty() };
  const firsts = new Map<string, string>();
  let table: Table | undefined;
  for (const line of text.split("\n")) {
    if (line.startsWith("*")) table = TABLES.find((name) => name === line.slice(1).trim());
    if (table === undefined) continue;
    const { chains, jumps } = shown[table];
    const declared = /^:(\S+) /.exec(line)?.[1];
    if (declared?.startsWith(prefix) === true) chains.set(declared, []);
    const rule = /^(?:\[(\d+):\d+\] )?-A (\S+) (.*)$/.exec(line);
    if (rule === null) continue;
    const [, packets = "0", chain = "", spec = ""] = rule;
    const target = /(?:^| )-[jg] (\S+)/.exec(spec)?.[1] ?? "";
    if (chain.startsWith(prefix)) {
      chains.get(chain)?.push({ text: spec, target, packets: Number(packets) });
      continue;
    }
    const key = `${table} ${chain}`;
    if (target.startsWith(prefix))
      jumps.push({ from: chain, rule: spec, to: target, behind: firsts.get(key) ?? null });
    // Other instances', each of which wants to be the first too, know nothing of our packets.
    else if (!OF_AN_INSTANCE.test(target) && !firsts.has(key)) firsts.set(key, spec);
  }
  return shown;
}

/** Whose chains there are, in any table. */
export function runsIn(shown: Shown, inst: InstanceTag): Set<RunId> {
  const names = TABLES.flatMap((table) => [...shown[table].chains.keys()]);
  return new Set(names.map((name) => runOfChain(inst, name)).filter((run) => run !== null));
}

/** The lanes that a run's chain in `raw` lets out. */
export function lanesIn(shown: Shown, chain: string): Lane[] {
  return (shown.raw.chains.get(chain) ?? []).flatMap(({ text, target }) => {
    if (target !== "RETURN" || !text.includes("-p tcp") || text.startsWith("-s ")) return [];
    const found = /^-d ([\d.]+)(?:\/32)? .*--dport (\d+)(?= |$)/.exec(text);
    return found === null ? [] : [{ address: found[1] ?? "", port: Number(found[2]) }];
  });
}

export type Drops = NonNullable<RunFate["dropped"]>;

/** How many packets of a run were dropped, by what they were. */
export function dropsIn(shown: Shown, chain: string): Drops {
  const drops = new Map<DropReason, number>();
  for (const { text, target, packets } of shown.raw.chains.get(chain) ?? []) {
    const comment = /--comment "?([a-z]+)"?/.exec(text)?.[1];
    const reason = dropReason.safeParse(comment).data;
    if (target !== "DROP" || reason === undefined || packets === 0) continue;
    drops.set(reason, (drops.get(reason) ?? 0) + packets);
  }
  return [...drops].map(([reason, packets]) => ({ reason, packets }));
}

export function sumOfDrops(...all: readonly Drops[]): Drops {
  const each = Map.groupBy(all.flat(), ({ reason }) => reason);
  return [...each].map(([reason, some]) => ({
    reason,
    packets: some.reduce((sum, { packets }) => sum + packets, 0),
  }));
}

/** The subnets of other instances that have runs now, by their walls. */
export function othersIn(
  text: string,
  inst: InstanceTag,
): { readonly inst: string; readonly subnet: string }[] {
  return [...text.matchAll(/^(?:\[\d+:\d+\] )?-A CD([0-9a-f]{4})-PRE -d ([\d./]+) -j DROP$/gm)]
    .map(([, other = "", subnet = ""]) => ({ inst: other, subnet }))
    .filter((other) => other.inst !== inst);
}
