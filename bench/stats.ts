/** Milliseconds of many runs of one thing. */
export interface Sample {
  readonly name: string;
  readonly times: number[];
}

export interface Summary {
  name: string;
  n: number;
  min_ms: number;
  p50_ms: number;
  p99_ms: number;
  max_ms: number;
}

export function quantile(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}

export function summary({ name, times }: Sample): Summary {
  const sorted = [...times].sort((a, b) => a - b);
  const round = (value: number) => Math.round(value * 100) / 100;
  return {
    name,
    n: sorted.length,
    min_ms: round(sorted[0] ?? Number.NaN),
    p50_ms: round(quantile(sorted, 0.5)),
    p99_ms: round(quantile(sorted, 0.99)),
    max_ms: round(sorted.at(-1) ?? Number.NaN),
  };
}

/** Runs each thing in turn, `rounds` times, so that all of them meet the same moments of a noisy machine. */
export async function interleaved(
  things: Record<string, () => Promise<void>>,
  { rounds, pauseMs = 0, warmups = 2 }: { rounds: number; pauseMs?: number; warmups?: number },
): Promise<Summary[]> {
  const times = new Map<string, number[]>(Object.keys(things).map((name) => [name, []]));
  for (let round = -warmups; round < rounds; round++) {
    for (const [name, run] of Object.entries(things)) {
      if (pauseMs > 0) await Bun.sleep(pauseMs);
      const start = performance.now();
      await run();
      if (round >= 0) times.get(name)?.push(performance.now() - start);
    }
  }
  return [...times].map(([name, list]) => summary({ name, times: list }));
}

/** Runs one thing `total` times, `width` at a time. */
export async function together(
  name: string,
  width: number,
  total: number,
  run: () => Promise<void>,
): Promise<Summary> {
  const times: number[] = [];
  let left = total;
  const worker = async () => {
    while (left-- > 0) {
      const start = performance.now();
      await run();
      times.push(performance.now() - start);
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
  return summary({ name, times });
}
