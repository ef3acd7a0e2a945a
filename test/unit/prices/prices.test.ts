import { describe, expect, test } from "bun:test";
import { costOf, createPrices, priceFile, type Price } from "../../../src/prices/prices.ts";
import builtIn from "../../../src/prices/prices.json" with { type: "json" };

const prices = createPrices();
const use = (over: Partial<Parameters<typeof costOf>[1]> = {}) => ({
  input: 0,
  cacheRead: 0,
  cacheWrite: 0,
  cacheWriteLong: 0,
  output: 0,
  ...over,
});
const priceOf = (model: string): Price => {
  const price = prices.of(model);
  if (price === null) throw new Error(`no price for ${model}`);
  return price;
};

test("the built-in list is well formed, and all of it is whole billionths a token", () => {
  const { models } = priceFile.parse(builtIn);
  expect(Object.keys(models).length).toBeGreaterThan(40);
  for (const [name, { input, output, cache_read = input }] of Object.entries(models)) {
    for (const dollars of [input, output, cache_read])
      expect(dollars * 1000).toBeCloseTo(Math.round(dollars * 1000), 6);
    expect([name, cache_read <= input, output >= input]).toEqual([name, true, true]);
  }
});

describe("a model's name", () => {
  test.each([
    ["claude-sonnet-5-5", 2000],
    ["claude-opus-4-5-20251101", 5000],
    ["claude-3-haiku-latest", 250],
    ["gpt-5-2025-08-07", 1250],
    ["gpt-5", 1250],
    // The one version that costs more than what it is one of.
    ["gpt-4o-2024-05-13", 5000],
  ])("%s costs %d", (model, input) => expect(prices.of(model)?.input).toBe(input));

  test.each([
    "",
    "gpt-5-turbo",
    "claude-sonnet-5-5-",
    "claude-sonnet",
    "ft:gpt-4o:x",
    "__proto__",
    "toString",
  ])("%p is not known", (model) => expect(prices.of(model)).toBeNull());
});

describe("a cost", () => {
  const sonnet = priceOf("claude-sonnet-5-5");

  test("is the sum of its kinds of tokens", () => {
    expect(costOf(sonnet, use())).toBe(0);
    const all = use({
      input: 1_000_000,
      cacheRead: 1_000_000,
      cacheWrite: 1_000_000,
      cacheWriteLong: 1_000_000,
      output: 1_000_000,
    });
    // 2 + 0.1 + 2.5 + 4 + 10 dollars.
    expect(costOf(sonnet, all)).toBe(18_600_000_000);
  });

  test("is another above so much input, for all of it, and only above", () => {
    const haiku = priceOf("claude-haiku-5-5");
    expect(costOf(haiku, use({ input: 100_000, output: 10 }))).toBe(100_000 * 100 + 10 * 500);
    expect(costOf(haiku, use({ input: 100_000, cacheRead: 1, output: 10 }))).toBe(
      100_000 * 500 + 50 + 10 * 2500,
    );
    const sol = priceOf("gpt-6.2-sol");
    expect(costOf(sol, use({ input: 272_001, output: 100 }))).toBe(272_001 * 4000 + 100 * 15_000);
  });

  test("is another in another mode, and the same in one that its price does not know", () => {
    const once = costOf(sonnet, use({ input: 1000 }));
    expect(costOf(sonnet, use({ input: 1000 }), ["us"])).toBe(once * 1.1);
    expect(costOf(sonnet, use({ input: 1000 }), ["moon"])).toBe(once);
    const opus = priceOf("claude-opus-5-5");
    expect(costOf(opus, use({ output: 10 }), ["fast", "us"])).toBe(440_000);
  });

  test("is rounded up", () => {
    expect(costOf(sonnet, use({ input: 1 }), ["us"])).toBe(2200);
    expect(costOf(priceOf("gpt-5-nano"), use({ cacheRead: 1 }), ["flex"])).toBe(3);
  });
});

test("an operator's file goes before the list, and adds to it", () => {
  const own = createPrices(
    priceFile.parse({ models: { "gpt-5": { input: 1, output: 2 }, "own-model": { input: 0, output: 0 } } }),
  );
  expect(own.of("gpt-5")).toMatchObject({ input: 1000, output: 2000, cacheRead: 1000, cacheWrite: 1000 });
  expect(own.of("own-model")).toMatchObject({ input: 0, output: 0 });
  expect(own.of("gpt-5-mini")?.input).toBe(250);
});

test.each([
  { models: { x: { input: -1, output: 1 } } },
  { models: { x: { input: 1 } } },
  { models: { x: { input: 1, output: 1, cached: 1 } } },
  { models: { "": { input: 1, output: 1 } } },
  { prices: {} },
])("a file that is no list of prices is refused: %j", (file) => {
  expect(priceFile.safeParse(file).success).toBe(false);
});
