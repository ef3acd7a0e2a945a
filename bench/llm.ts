import { join } from "node:path";
import { runId } from "../src/ids.ts";
import type { LlmProcess } from "../test/fixtures/llm-process.ts";
import { interleaved, summary, type Summary } from "./stats.ts";

const MODEL = "claude-sonnet-5-5";
const EVENTS = 40;

/** `bun bench/llm.ts`: this part alone. */
if (import.meta.main) console.table(await models("/tmp", 300));

/**
 * What a run's requests to a model take more for the gateway between: one at a time with a small and a large body, and each event of a
 * hundred streams at once, from the provider's write to the caller's read. All three have a process of their own; the gateway's
 * has its journal on a disk, and the budget to keep.
 */
export async function models(work: string, rounds: number): Promise<Summary[]> {
  const provider = await start("llm-provider.ts");
  const given: LlmProcess = {
    url: provider.url,
    openaiUrl: `${provider.url}/v1`,
    key: "sk-real",
    path: join(work, `${runId.make()}.jsonl`),
    run: runId.make(),
    grant: { max_usd_nano: 1e15 },
  };
  const gateway = await start("../test/fixtures/llm-process.ts", JSON.stringify(given));
  const ask = (url: string, content: string) => async () => {
    const answer = await post(url, { max_tokens: 100, messages: [{ role: "user", content }] });
    await answer.json();
  };
  const large = "All work and no play makes the model a dull one.\n".repeat(4000);
  const rows = await interleaved(
    {
      "a request to a model: direct": ask(provider.url, "hi"),
      "a request to a model: through the gateway": ask(gateway.url, "hi"),
      "a request of 200 KB to a model: direct": ask(provider.url, large),
      "a request of 200 KB to a model: through the gateway": ask(gateway.url, large),
    },
    { rounds, warmups: 20 },
  );
  for (const width of [1, 100]) {
    for (const [what, url] of [
      ["direct", provider.url],
      ["through the gateway", gateway.url],
    ] as const) {
      const delays = await Promise.all(Array.from({ length: width }, () => eventDelays(url)));
      rows.push(summary({ name: `an event, of ${width} streams: ${what}`, times: delays.flat() }));
    }
  }
  for (const { child } of [gateway, provider]) {
    child.kill();
    await child.exited;
  }
  return rows;
}

async function start(file: string, ...args: string[]) {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, file), ...args], {
    env: { ...process.env, BUN_CONFIG_MAX_HTTP_REQUESTS: "16384" },
    stdout: "pipe",
    stderr: "inherit",
  });
  const { value } = await child.stdout.getReader().read();
  const [url = ""] = new TextDecoder().decode(value).trim().split(" ");
  return { child, url };
}

function post(url: string, body: object): Promise<Response> {
  return fetch(`${url}/v1/messages`, { method: "POST", body: JSON.stringify({ model: MODEL, ...body }) });
}

async function eventDelays(url: string): Promise<number[]> {
  // Not all at the same moment.
  await Bun.sleep(Math.random() * 50);
  const answer = await post(url, {
    max_tokens: EVENTS,
    stream: true,
    messages: [{ role: "user", content: "hi" }],
  });
  const decoder = new TextDecoder();
  const delays: number[] = [];
  for await (const piece of answer.body ?? []) {
    const now = performance.timeOrigin + performance.now();
    for (const [, sent] of decoder.decode(piece).matchAll(/@([\d.]+)@/g)) delays.push(now - Number(sent));
  }
  if (delays.length !== EVENTS) throw new Error(`${delays.length} events came of ${EVENTS}`);
  return delays;
}
