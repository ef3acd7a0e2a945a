import { expect, test } from "bun:test";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { RunId } from "../../../src/ids.ts";
import type { RunOutput } from "../../../src/runs/output/output.ts";
import type { Step } from "../../../src/runs/output/follow.ts";
import { bytesOf, entriesOf, startRunOutput } from "../../fixtures/run-output.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { until } from "../../fixtures/until.ts";

const never = new AbortController().signal;

/** What there is by now. */
async function whatIsThere(output: RunOutput, run: RunId, after = 0): Promise<Step[]> {
  return Array.fromAsync(output.follow(run, { after, live: false }, () => true, never));
}

/** Reads on in the background, as a client that keeps up does. */
function reading(output: RunOutput, run: RunId, after = 0, signal = never) {
  const steps: Step[] = [];
  const done = (async () => {
    for await (const step of output.follow(run, { after, live: true }, () => false, signal)) steps.push(step);
  })();
  return { steps, done };
}

test("output arrives in order, by stream, with numbers and times, and ends with the run", async () => {
  using scratch = scratchDirectory();
  using started = startRunOutput(scratch.path);
  const { output } = started;
  const { run, out, err, end } = started.begin();
  const live = reading(output, run);
  const began = Date.now();
  out("one\n");
  await until(() => entriesOf(live.steps).length === 1);
  err("two\n");
  await until(() => entriesOf(live.steps).length === 2);
  output.status(run, "about to end");
  out("three");
  end();
  await output.drained(run);
  output.finish(run);
  await live.done;
  const entries = entriesOf(live.steps);
  expect(entries.map(({ seq, stream, bytes }) => [seq, stream, Buffer.from(bytes).toString()])).toEqual([
    [1, "stdout", "one\n"],
    [2, "stderr", "two\n"],
    [3, "status", "about to end"],
    [4, "stdout", "three"],
  ]);
  for (const { at } of entries) expect(at).toBeGreaterThanOrEqual(began);
  // Whoever comes later finds the same, all of it or a part.
  expect(entriesOf(await whatIsThere(output, run))).toEqual(entries);
  expect(entriesOf(await whatIsThere(output, run, 2))).toEqual(entries.slice(2));
  expect(entriesOf(await whatIsThere(output, run, 4))).toEqual([]);
  expect(entriesOf(await whatIsThere(output, run, 1_000_000))).toEqual([]);
  expect(existsSync(join(started.instance.sockets.runs, run))).toBe(false);
});

test("no character is torn, whatever the pieces; what is none stays as bytes", async () => {
  using scratch = scratchDirectory();
  using started = startRunOutput(scratch.path);
  const { output } = started;
  const { run, out, end } = started.begin();
  const text = "aä€😀\u0000\u2028z";
  const bytes = Buffer.from(text);
  for (const byte of bytes) {
    out(Uint8Array.of(byte));
    // One look a byte.
    await Bun.sleep(3);
  }
  const strict = new TextDecoder("utf-8", { fatal: true });
  const shown = async () =>
    entriesOf(await whatIsThere(output, run))
      .map((entry) => strict.decode(entry.bytes))
      .join("");
  await until(async () => (await shown()).length === text.length);
  expect(await shown()).toBe(text);
  const broken = Uint8Array.of(0xff, 0x41, 0xe2, 0x82);
  out(broken);
  end();
  await output.drained(run);
  const all = bytesOf(entriesOf(await whatIsThere(output, run)), "stdout");
  expect(all.equals(Buffer.concat([bytes, broken]))).toBe(true);
});

test("output is bounded: the oldest goes, whoever wants it is told, and the numbers go on", async () => {
  using scratch = scratchDirectory();
  const bound = 256 * 1024;
  using started = startRunOutput(scratch.path, { maxBytes: () => bound });
  const { output } = started;
  const { run, out, err, end, waiting } = started.begin();
  const line = (n: number) => `${String(n).padStart(7, "0")}${"x".repeat(56)}\n`;
  const lines = 40_000;
  for (let n = 0; n < lines; n++) {
    out(line(n));
    if (n % 100 === 0) err("€");
    if (n % 500 !== 0) continue;
    await until(() => waiting() === 0);
    expect(statOf(started, run)).toBeLessThan(bound + 64 * 1024);
  }
  end();
  await output.drained(run);
  const steps = await whatIsThere(output, run);
  const [gap] = steps;
  if (gap?.kind !== "gap") throw new Error("no gap was told of");
  const entries = entriesOf(steps);
  expect(entries[0]?.seq).toBe(gap.seq + 1);
  expect(entries.map(({ seq }) => seq)).toEqual(entries.map((_, index) => gap.seq + 1 + index));
  const kept = bytesOf(entries, "stdout").toString();
  const whole = Array.from({ length: lines }, (_, n) => line(n)).join("");
  expect(kept.length).toBeGreaterThan(bound / 2);
  expect(whole.endsWith(kept)).toBe(true);
  expect(gap.bytes + bytesOf(entries).length).toBe(whole.length + 3 * (lines / 100));
});

function statOf({ instance }: ReturnType<typeof startRunOutput>, run: RunId): number {
  const dir = join(instance.api.runs, run, "output");
  return readdirSync(dir).reduce((sum, name) => sum + statSync(join(dir, name)).size, 0);
}
