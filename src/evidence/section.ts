/** What a look at the host found. */
export interface Finding<Facts> {
  /** As it is in --json. */
  readonly facts: Facts;
  /** The same for a person. */
  readonly lines: readonly string[];
  /** What contradicts the claim, each in a sentence; none when it holds. */
  readonly wrong: readonly string[];
}

/** One claim about a run, what the host shows of it, and how to see that without this program. */
export interface Section<Facts = unknown> {
  readonly name: string;
  readonly title: string;
  readonly claim: string;
  /** null: it could not be looked at, and `wrong` says why. */
  readonly holds: boolean | null;
  readonly wrong: readonly string[];
  readonly facts: Facts | null;
  readonly lines: readonly string[];
  readonly by_hand: readonly string[];
}

export interface Look<Facts> {
  readonly name: string;
  readonly title: string;
  readonly claim: string;
  readonly by_hand: readonly string[];
  readonly look: () => Finding<Facts> | Promise<Finding<Facts>>;
}

/** One that can't be made shows neither that its claim holds nor that it does not. */
export async function see<Facts>({ look, ...words }: Look<Facts>): Promise<Section<Facts>> {
  try {
    const { facts, lines, wrong } = await look();
    return { ...words, holds: wrong.length === 0, wrong, facts, lines };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return { ...words, holds: null, wrong: [`could not be looked at: ${why}`], facts: null, lines: [] };
  }
}

/** "name  value" lines under each other. */
export function pairs(all: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(0, ...all.map(([name]) => name.length));
  return all.map(([name, value]) => `${name.padEnd(width)}  ${value}`.trimEnd());
}
