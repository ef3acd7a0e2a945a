import type { Base, Chain, RunPart, Table } from "./rules.ts";
import type { ShownTable } from "./shown.ts";

/** The lines of `iptables-restore --noflush` by which a table comes from one state to another. */
export interface TableBlock {
  readonly table: Table;
  readonly lines: readonly string[];
}

/** All that there is to be of ours in one table. */
export interface Wanted {
  readonly base: Base;
  readonly parts: readonly RunPart[];
}

export const NONE: Base = { chains: [], jumps: [] };

export function blockText({ table, lines }: TableBlock): string {
  return `*${table}\n${lines.join("\n")}\nCOMMIT\n`;
}

export function entering({ chains, jumps }: Base): string[] {
  return [...chains.map(({ name }) => declare(name)), ...chains.flatMap(fill), ...jumps.map(jumpTo)];
}

/** Fails where someone else has taken these away, and so no run starts without them; and they are the first again. */
export function reentering({ jumps }: Base): string[] {
  return jumps.flatMap((jump) => [`-D ${jump.from} -j ${jump.to}`, jumpTo(jump)]);
}

export function leaving({ chains, jumps }: Base): string[] {
  return [
    ...chains.map(({ name }) => declare(name)),
    ...jumps.map(({ from, to }) => `-D ${from} -j ${to}`),
    ...chains.map(({ name }) => `-X ${name}`),
  ];
}

/** Of one run in one table. Its chain is entered by the same rules whatever is in it. */
export function difference(before: RunPart | null, after: RunPart | null): string[] {
  if (after !== null) {
    return [declare(after.chain.name), ...fill(after.chain), ...(before === null ? enter(after) : [])];
  }
  if (before === null) return [];
  const { name } = before.chain;
  return [declare(name), ...before.entries.map(({ chain, rule }) => `-D ${chain} ${rule}`), `-X ${name}`];
}

/** Made where it is not there, and emptied. */
function declare(chain: string): string {
  return `:${chain} - [0:0]`;
}

function fill({ name, rules }: Chain): string[] {
  return rules.map((rule) => `-A ${name} ${rule}`);
}

function enter({ entries }: RunPart): string[] {
  return entries.map(({ chain, rule }) => `-I ${chain} 1 ${rule}`);
}

function jumpTo({ from, to }: { from: string; to: string }): string {
  return `-I ${from} 1 -j ${to}`;
}

/**
 * Whence, whither, by which port and interface, and to what end: in this the rules that were written and those that
 * iptables-save shows are alike, whatever its kind and version.
 */
function essenceOf(rule: string): string {
  return [...rule.matchAll(/(?:! )?(?<![\w-])-{1,2}(?:[sdiojg]|dport|sport) \S+/g)]
    .map(([part]) => part.replace(/\/32$/, ""))
    .toSorted()
    .join(" ");
}

/** From whatever is shown, in one transaction: at no moment is a wall down that was up. */
export function rebuilt({ base, parts }: Wanted, { chains, jumps }: ShownTable): string[] {
  const want = [...base.chains, ...parts.map(({ chain }) => chain)];
  const names = new Set(want.map(({ name }) => name));
  const there = [...chains.keys()];
  return [
    ...[...new Set([...there, ...names])].map(declare),
    ...jumps.map(({ from, rule }) => `-D ${from} ${rule}`),
    ...want.flatMap(fill),
    ...parts.flatMap(enter),
    ...base.jumps.map(jumpTo),
    ...there.filter((name) => !names.has(name)).map((name) => `-X ${name}`),
  ];
}

export function isWhole({ base, parts }: Wanted, { chains, jumps }: ShownTable): boolean {
  const want = new Map(
    [...base.chains, ...parts.map(({ chain }) => chain)].map(({ name, rules }) => [name, [...rules]]),
  );
  for (const { chain, rule } of parts.flatMap(({ entries }) => entries)) want.get(chain)?.push(rule);
  return (
    isSame([...chains.keys()], [...want.keys()]) &&
    [...chains].every(([name, rules]) =>
      isSame(
        rules.map(({ text }) => essenceOf(text)),
        (want.get(name) ?? []).map(essenceOf),
      ),
    ) &&
    isSame(
      jumps.map(({ from, rule }) => `${from} ${rule}`),
      base.jumps.map(({ from, to }) => `${from} -j ${to}`),
    )
  );
}

/**
 * Of what is wanted of one run, with what all have in common, what is not shown; and what is shown besides that would let
 * something pass.
 */
export function faultsIn({ base, parts }: Wanted, { chains, jumps }: ShownTable): string[] {
  const all = new Map(
    [...chains].map(([name, rules]) => [
      name,
      rules.map((rule) => ({ ...rule, essence: essenceOf(rule.text) })),
    ]),
  );
  const of = (name: string) => all.get(name) ?? [];
  const missing = (name: string, rules: readonly string[]) => {
    const shown = new Set(of(name).map(({ essence }) => essence));
    return rules.filter((rule) => !shown.has(essenceOf(rule))).map((rule) => `-A ${name} ${rule} is missing`);
  };
  /** The ways into other runs' chains aside, which are no rules of this one's. */
  const added = (name: string, rules: readonly string[]) => {
    const wanted = new Set(rules.map(essenceOf));
    return of(name)
      .filter(({ essence, target }) => target !== "DROP" && !chains.has(target) && !wanted.has(essence))
      .map(({ text }) => `-A ${name} ${text} is nobody's`);
  };
  return [
    ...base.jumps
      .filter(({ from, to }) => !jumps.some((one) => one.from === from && one.rule === `-j ${to}`))
      .map(({ from, to }) => `-A ${from} -j ${to} is missing`),
    ...base.chains.flatMap(({ name, rules }) => [...missing(name, rules), ...added(name, rules)]),
    ...parts.flatMap(({ chain: { name, rules }, entries }) => [
      ...entries.flatMap((entry) => missing(entry.chain, [entry.rule])),
      // In order: the first that fits decides.
      ...(of(name)
        .map(({ essence }) => essence)
        .join("\n") === rules.map(essenceOf).join("\n")
        ? []
        : [`${name} is not as it was made`]),
    ]),
  ];
}

/** Rules of others that packets come to before they come to ours. */
export function aheadIn({ jumps: wanted }: Base, { jumps }: ShownTable): string[] {
  return jumps.flatMap(({ from, to, behind }) =>
    behind !== null && wanted.some((one) => one.from === from && one.to === to)
      ? [`-A ${from} ${behind}`]
      : [],
  );
}

/** In any order: runs' entries come in the order of their starts. */
export function isSame(one: readonly string[], other: readonly string[]): boolean {
  return one.toSorted().join("\n") === other.toSorted().join("\n");
}
