import { z } from "zod";
import builtIn from "./prices.json" with { type: "json" };

/** Of a list price: dollars per million tokens. A thousandth of that per token is a whole number of billionths. */
const dollars = z.number().min(0).max(100_000);
const factor = z.number().positive().max(100);

const modelPrice = z.strictObject({
  input: dollars,
  output: dollars,
  /** Of input that the provider had in its cache, and of putting it there for minutes or for hours; as `input` when absent. */
  cache_read: dollars.optional(),
  cache_write: dollars.optional(),
  cache_write_long: dollars.optional(),
  /** The most tokens that one answer has: what is reserved for a request that does not say. */
  max_output: z.int().min(1).optional(),
  /** A request with more input than that costs so many times as much, all of it. */
  long: z.strictObject({ above: z.int().min(0), input: factor, output: factor }).optional(),
  /** What a request that asks to be served otherwise (faster, later, somewhere) costs, times as much. */
  modes: z.record(z.string(), factor).optional(),
});

export const priceFile = z.strictObject({
  /** When somebody last compared it with the providers' lists. */
  updated: z.string().optional(),
  models: z.record(z.string().min(1), modelPrice),
});
export type PriceFile = z.infer<typeof priceFile>;

/** Billionths of a dollar per token. */
export interface Price {
  readonly input: number;
  readonly output: number;
  readonly cacheRead: number;
  readonly cacheWrite: number;
  readonly cacheWriteLong: number;
  readonly maxOutput: number;
  readonly long: { readonly above: number; readonly input: number; readonly output: number } | null;
  /** Asked for by names that callers choose, so not an object, which has a "constructor". */
  readonly modes: ReadonlyMap<string, number>;
}

export interface Prices {
  /** Null for a model whose price nobody has told: it must not be let out on a budget of dollars. */
  of(model: string): Price | null;
}

/** For a model whose longest answer is not known. */
const MAX_OUTPUT = 128_000;

/** What an operator's file says goes before the built-in list, a model at a time. */
export function createPrices(overrides: PriceFile = { models: {} }): Prices {
  const known = new Map<string, Price>();
  for (const { models } of [priceFile.parse(builtIn), overrides]) {
    for (const [name, price] of Object.entries(models)) known.set(name, inNano(price));
  }
  return {
    // A version of a model costs what the model does: gpt-5-2025-08-07, claude-opus-4-5-20251101, claude-3-haiku-latest.
    of: (model) =>
      known.get(model) ?? known.get(model.replace(/-(\d{4}-\d{2}-\d{2}|\d{8}|latest)$/, "")) ?? null,
  };
}

function inNano(price: PriceFile["models"][string]): Price {
  const nano = (perMillion: number) => roundUp(perMillion * 1000);
  return {
    input: nano(price.input),
    output: nano(price.output),
    cacheRead: nano(price.cache_read ?? price.input),
    cacheWrite: nano(price.cache_write ?? price.input),
    cacheWriteLong: nano(price.cache_write_long ?? price.cache_write ?? price.input),
    maxOutput: price.max_output ?? MAX_OUTPUT,
    long: price.long ?? null,
    modes: new Map(Object.entries(price.modes ?? {})),
  };
}

/** Tokens; of the input each is in one of the four. */
export interface TokenUse {
  readonly input: number;
  readonly cacheRead: number;
  readonly cacheWrite: number;
  readonly cacheWriteLong: number;
  readonly output: number;
}

/** In billionths of a dollar, rounded up. `modes` are those of the price that count; one that it lacks changes nothing. */
export function costOf(price: Price, use: TokenUse, modes: readonly string[] = []): number {
  const all = use.input + use.cacheRead + use.cacheWrite + use.cacheWriteLong;
  const times = price.long !== null && all > price.long.above ? price.long : { input: 1, output: 1 };
  const input =
    use.input * price.input +
    use.cacheRead * price.cacheRead +
    use.cacheWrite * price.cacheWrite +
    use.cacheWriteLong * price.cacheWriteLong;
  const mode = modes.reduce((product, name) => product * (price.modes.get(name) ?? 1), 1);
  return roundUp((input * times.input + use.output * price.output * times.output) * mode);
}

/** Less what floating point adds: 1.1 times 10 is not 11. */
function roundUp(value: number): number {
  return Math.ceil(Math.max(0, value - 1e-6));
}
