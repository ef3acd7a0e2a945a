import { expect, test } from "bun:test";
import { join } from "node:path";
import { openJournal } from "../../../../src/gateway/journal.ts";
import { runId } from "../../../../src/ids.ts";
import { createLog } from "../../../../src/log.ts";
import { costOf, createPrices } from "../../../../src/prices/prices.ts";
import { CREDENTIALS } from "../../../fixtures/llm-lane.ts";
import type { LlmProcess } from "../../../fixtures/llm-process.ts";
import { startProvider } from "../../../fixtures/provider.ts";
import { seededRandom } from "../../../fixtures/random.ts";
import { scratchDirectory } from "../../../fixtures/scratch.ts";

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
const KILLS = 4;
const model = "claude-sonnet-5-5";

test(`a budget outlives kill -9 of the gateway under fifty streams, SEED=${seed}`, async () => {
  const dice = seededRandom(seed);
  const price = createPrices().of(model)!;
  using scratch = scratchDirectory();
  const path = join(scratch.path, "run.jsonl");
  const run = runId.make();
  const provider = startProvider();
  const max = 3_000_000_000;
  /** What the provider will have on its bill: of every request that it got, whether or not anybody heard its answer. */
  let billed = 0;
  provider.behaviour.script = ({ json }) => {
    const usage = { input: dice.int(20), output: 1 + dice.int(json.max_tokens) };
    billed += costOf(price, { cacheRead: 0, cacheWrite: 0, cacheWriteLong: 0, ...usage });
    return { text: "word ".repeat(10), usage, pauseMs: dice.int(4) };
  };

  const { url, openaiUrl, key } = provider;
  const given: LlmProcess = { url, openaiUrl, key, path, run, grant: { max_usd_nano: max } };
  const main = join(import.meta.dir, "../../../fixtures/llm-process.ts");
  for (let kill = 0; kill <= KILLS; kill += 1) {
    const child = Bun.spawn([process.execPath, main, JSON.stringify(given)], {
      stdout: "pipe",
      stderr: "inherit",
    });
    const { value } = await child.stdout.getReader().read();
    const [at = ""] = new TextDecoder().decode(value).trim().split(" ");
    const isLast = kill === KILLS;
    const loop = async (): Promise<void> => {
      for (;;) {
        const body = {
          model,
          max_tokens: 1 + dice.int(2000),
          stream: true,
          messages: [{ role: "user", content: "x".repeat(100) }],
        };
        const answer = await fetch(`${at}/v1/messages`, { method: "POST", body: JSON.stringify(body) });
        await answer.text();
        if (answer.status === 402) return;
        if (answer.status === 429) await Bun.sleep(5);
      }
    };
    const loops = Promise.all(Array.from({ length: 50 }, () => loop().catch(() => undefined)));
    if (isLast) await loops;
    else await Bun.sleep(30 + dice.int(150));
    child.kill("SIGKILL");
    await child.exited;
    await loops;
  }

  const journal = openJournal({ path, run, log: createLog("gateway", () => {}) });
  const spent = journal.spent(CREDENTIALS.anthropic);
  const records = await journal.recordsAfter(0, Number.POSITIVE_INFINITY);
  journal.close();
  await provider.stop();
  // Nothing that the provider was asked for is missing, nothing is over the budget, and the budget was used to its end.
  expect(spent.usd_nano).toBeGreaterThanOrEqual(billed);
  expect(spent.usd_nano).toBeLessThanOrEqual(max);
  expect(spent.usd_nano).toBeGreaterThan(max - 25_000_000);
  expect(spent.requests).toBeGreaterThanOrEqual(provider.requests.length);
  // The control: kills did hit requests under way.
  expect(records.filter((record) => record.kind === "llm" && record.status === null).length).toBeGreaterThan(
    0,
  );
  expect(billed).toBeGreaterThan(max / 10);
}, 60_000);
