import { expect, test } from "bun:test";
import { resolve } from "node:path";

test("the benchmark runs, with a figure in every cell", async () => {
  const out = "/scratch/bench.json";
  const child = Bun.spawn([process.execPath, "bench/run.ts", "--quick", out], {
    cwd: resolve(import.meta.dir, "../.."),
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  });
  const table = await child.stdout.text();
  expect(await child.exited).toBe(0);
  console.log(table);
  const { rows, ratios } = (await Bun.file(out).json()) as {
    rows: { name: string; n: number; p50_ms: number; p99_ms: number }[];
    ratios: Record<string, number>;
  };
  expect(rows.length).toBeGreaterThan(20);
  const blank = rows.filter(({ n, p50_ms, p99_ms }) => !(n > 0 && p50_ms > 0 && p99_ms >= p50_ms));
  expect(blank).toEqual([]);
  expect(Object.entries(ratios).filter(([, value]) => !(value > 0))).toEqual([]);
}, 900_000);
