import { describe, expect, test } from "bun:test";
import type { Spent } from "../../../../src/gateway/journal.ts";
import { gatewayRecord, type LlmGrant } from "../../../../src/protocol/gateway.ts";
import { CREDENTIALS, startLlmLane } from "../../../fixtures/llm-lane.ts";
import { startProvider } from "../../../fixtures/provider.ts";
import { seededRandom } from "../../../fixtures/random.ts";
import { until } from "../../../fixtures/until.ts";

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
const dice = seededRandom(seed);
const between = (least: number, most: number): number => least + dice.int(most - least + 1);
const model = "claude-sonnet-5-5";
const PARALLEL = 50;

interface Limits extends Pick<LlmGrant, "max_usd_nano" | "max_output_tokens" | "max_requests"> {}

/** Fifty loops that ask until nothing fits any more, and a provider that takes what it likes of what it is let. */
async function spend(limits: Limits, inputTokens: () => number) {
  const provider = startProvider();
  await using lane = startLlmLane(provider, { grant: limits, dialects: ["anthropic"] });
  const spent = (): Spent => lane.journal.spent(CREDENTIALS.anthropic);
  const within = () => {
    const now = spent();
    expect(now.usd_nano).toBeLessThanOrEqual(limits.max_usd_nano ?? Number.POSITIVE_INFINITY);
    expect(now.output_tokens).toBeLessThanOrEqual(limits.max_output_tokens ?? Number.POSITIVE_INFINITY);
    expect(now.requests).toBeLessThanOrEqual(limits.max_requests ?? Number.POSITIVE_INFINITY);
  };
  provider.behaviour.script = ({ json }) => {
    within();
    const output = between(1, json.max_tokens);
    return {
      text: "word ".repeat(between(1, 10)),
      usage: { input: inputTokens(), output },
      pauseMs: between(0, 2),
    };
  };
  const statuses = new Map<number, number>();
  const loop = async () => {
    for (;;) {
      const answer = await lane.post("/v1/messages", {
        model,
        max_tokens: between(1, 4000),
        stream: between(1, 5) > 1,
        messages: [{ role: "user", content: "x".repeat(between(1, 400)) }],
      });
      await answer.text();
      statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
      if (answer.status === 402) return;
      // It is held by others, and will be free.
      if (answer.status === 429) await Bun.sleep(between(1, 5));
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, loop));
  within();
  const records = await lane.records();
  await provider.stop();
  return { spent: spent(), records, statuses, sent: provider.requests.length };
}

describe(`fifty streams at once, SEED=${seed}`, () => {
  test("spend a budget of dollars to its end and never over it", async () => {
    const limits = { max_usd_nano: 4_000_000_000, max_output_tokens: null, max_requests: null };
    const { spent, records, sent } = await spend(limits, () => between(0, 20));
    expect(records).toHaveLength(sent);
    expect(records.reduce((sum, { usd_nano }) => sum + usd_nano, 0)).toBe(spent.usd_nano);
    // What is left is less than the largest of them could cost.
    expect(spent.usd_nano).toBeGreaterThan(limits.max_usd_nano - 45_000_000);
  });

  test("of output tokens, of requests, and of all together", async () => {
    const tokens = await spend(
      { max_usd_nano: null, max_output_tokens: 100_000, max_requests: null },
      () => 5,
    );
    expect(tokens.spent.output_tokens).toBeGreaterThan(96_000);
    const requests = await spend({ max_usd_nano: null, max_output_tokens: null, max_requests: 60 }, () => 5);
    expect(requests.sent).toBe(60);
    await spend({ max_usd_nano: 1_000_000_000, max_output_tokens: 50_000, max_requests: 60 }, () => 5);
  });

  test("are over it by no more than those that had begun took of input beyond their estimate", async () => {
    const provider = startProvider();
    const max = 300_000_000;
    await using lane = startLlmLane(provider, { grant: { max_usd_nano: max }, dialects: ["anthropic"] });
    // Twenty times as dense as text is.
    const excess: number[] = [];
    provider.behaviour.script = ({ text, json }) => {
      const input = text.length * 6;
      excess.push(Math.ceil(input - text.length * 0.3) * 2000);
      return { text: "x", usage: { input, output: json.max_tokens } };
    };
    const ask = { model, max_tokens: 1000, messages: [{ role: "user", content: "x".repeat(3000) }] };
    for (;;) {
      const answers = await Promise.all(
        Array.from({ length: PARALLEL }, () => lane.post("/v1/messages", ask)),
      );
      await Promise.all(answers.map((answer) => answer.text()));
      if (answers.some(({ status }) => status === 402)) break;
    }
    const { usd_nano } = lane.journal.spent(CREDENTIALS.anthropic);
    expect(usd_nano).toBeGreaterThan(max);
    expect(usd_nano).toBeLessThanOrEqual(max + excess.reduce((sum, one) => sum + one, 0));
    await provider.stop();
  });
});

test("a budget that others hold is waited for; one that is spent is not", async () => {
  const provider = startProvider();
  await using lane = startLlmLane(provider, { grant: { max_usd_nano: 30_000_000 } });
  const ask = { model, max_tokens: 2000, messages: [{ role: "user", content: "x" }] };
  provider.behaviour.script = () => ({ text: "one two", fault: { kind: "stall", afterEvents: 4 } });
  const first = await lane.post("/v1/messages", { ...ask, stream: true });
  const held = await lane.post("/v1/messages", ask);
  expect([held.status, held.headers.get("retry-after")]).toEqual([429, "2"]);
  expect(await held.text()).toContain("held by its requests under way");
  await first.body?.cancel();
  // The one that was cut counts in full, so the rest is too little for another.
  await until(async () => (await lane.records()).length === 1);
  const spent = await lane.post("/v1/messages", ask);
  expect([spent.status, spent.headers.get("x-should-retry")]).toEqual([402, "false"]);
  await provider.stop();
});

test("a request that does not say how much it takes is limited to what the budget is enough for", async () => {
  const provider = startProvider();
  await using lane = startLlmLane(provider, { grant: { max_usd_nano: 500_000_000 }, dialects: ["openai"] });
  const limits: number[] = [];
  for (let n = 0; n < 3; n += 1) {
    provider.behaviour.script = ({ json }) => {
      limits.push(json.max_output_tokens ?? json.max_tokens);
      return { text: "x", usage: { output: json.max_output_tokens ?? json.max_tokens } };
    };
    const route = n < 2 ? "/v1/responses" : "/v1/chat/completions";
    const answer = await lane.post(route, { model: "gpt-6.2-sol", input: "x", messages: [] });
    expect(answer.status).toBe(200);
  }
  // Half of what is left each time: 10 dollars a million.
  for (const [n, limit] of [25_000, 12_500, 6250].entries())
    expect(limits[n]).toBeWithin(limit * 0.98, limit + 1);
  const all = [{ max_output_tokens: null }, { max_output_tokens: 10 }];
  for (const over of all) await lane.post("/v1/responses", { model: "gpt-6.2-sol", input: "x", ...over });
  expect(provider.requests.at(-2)?.json.max_output_tokens).toBeGreaterThan(1000);
  expect(provider.requests.at(-1)?.json.max_output_tokens).toBe(10);
  await provider.stop();
});

test("a model whose price nobody knows is refused on a budget of dollars, and only there", async () => {
  const provider = startProvider();
  const ask = { model: "own-model", max_tokens: 10, messages: [] };
  await using dollars = startLlmLane(provider, { grant: { max_usd_nano: 1e12 } });
  const refused = await dollars.post("/v1/messages", ask);
  expect(refused.status).toBe(400);
  expect(await refused.text()).toContain("No price is known for own-model");
  const fast = await dollars.post("/v1/messages", { ...ask, model, speed: "warp" });
  expect(fast.status).toBe(400);
  expect(await fast.text()).toContain('served as \\"warp\\"');
  // Names that every object has: what they cost is no number, and then nothing was over any budget.
  for (const speed of ["constructor", "toString", "__proto__"]) {
    const odd = await dollars.post("/v1/messages", { ...ask, model, speed, max_tokens: 0 });
    expect([odd.status, await odd.text()]).toEqual([400, expect.stringContaining("served as")]);
  }
  expect(dollars.journal.spent(CREDENTIALS.anthropic).usd_nano).toBe(0);
  expect(provider.requests).toHaveLength(0);
  await using requests = startLlmLane(provider, { grant: { max_requests: 1 } });
  expect((await requests.post("/v1/messages", ask)).status).toBe(200);
  await provider.stop();
});

test("a request that allows more than there is gets what is there, as long as that is worth it", async () => {
  const provider = startProvider();
  // Enough for 10,000 tokens of output.
  await using lane = startLlmLane(provider, {
    grant: { max_usd_nano: 100_000_000 },
    dialects: ["anthropic"],
  });
  // As Claude Code asks.
  const ask = { model, max_tokens: 128_000, messages: [{ role: "user", content: "x" }] };
  const sent = (): number => provider.requests.at(-1)?.json.max_tokens;
  expect((await lane.post("/v1/messages", ask)).status).toBe(200);
  expect(sent()).toBeWithin(9_900, 10_000);
  // What it allows itself is not touched while it fits.
  await lane.post("/v1/messages", { ...ask, max_tokens: 5000 });
  expect(sent()).toBe(5000);
  // Beside another it gets half.
  provider.behaviour.script = () => ({ text: "one two", fault: { kind: "stall", afterEvents: 4 } });
  const other = await lane.post("/v1/messages", { ...ask, max_tokens: 1000, stream: true });
  provider.behaviour.script = () => ({ text: "x", usage: { output: 12 } });
  await lane.post("/v1/messages", ask);
  expect(sent()).toBeWithin(4300, 4500);
  await other.body?.cancel();
  await until(async () => (await lane.records()).length === 4);
  // Thinking has to have its room: more than is left.
  const thinking = { ...ask, thinking: { type: "enabled", budget_tokens: 20_000 } };
  const refused = await lane.post("/v1/messages", thinking);
  expect(refused.status).toBe(402);
  expect(await refused.text()).toContain("(20001 tokens of output)");
  // Too little is left for an answer.
  provider.behaviour.script = ({ json }) => ({ text: "x", usage: { output: json.max_tokens - 1000 } });
  expect((await lane.post("/v1/messages", ask)).status).toBe(200);
  expect((await lane.post("/v1/messages", ask)).status).toBe(402);
  expect((await lane.post("/v1/messages", { ...ask, max_tokens: 500 })).status).toBe(200);
  await provider.stop();
});

describe("a provider that says odd things of what it took", () => {
  const ask = { model, max_tokens: 1000, messages: [{ role: "user", content: "x" }] };
  const started = { type: "message_start", message: { usage: { input_tokens: 1, output_tokens: 1 } } };
  const ended = (usage: object) => ({ type: "message_delta", delta: { stop_reason: "end_turn" }, usage });
  const huge = Number.MAX_SAFE_INTEGER;
  const iterations = Array.from({ length: 1000 }, () => ({
    type: "compaction",
    model: "claude-opus-5",
    input_tokens: 1_000_000_000,
    output_tokens: 1_000_000_000,
  }));

  async function answered(route: string, body: object, events: readonly object[], end = "") {
    const text = events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("") + end;
    using server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      development: false,
      fetch: () => new Response(text, { headers: { "content-type": "text/event-stream" } }),
    });
    const url = `http://127.0.0.1:${server.port}`;
    await using lane = startLlmLane({ url, openaiUrl: `${url}/v1`, key: "k" });
    for (let n = 0; n < 3; n += 1) {
      const answer = await lane.post(route, { ...body, stream: true });
      expect(await answer.text()).toBe(text);
    }
    return { records: await lane.records() };
  }

  test.each([
    ["huge", { output_tokens: huge, cache_read_input_tokens: huge }],
    ["huge besides", { output_tokens: 1, iterations }],
    ["negative", { output_tokens: -1_000_000, input_tokens: -1 }],
    ["none", { output_tokens: "many" }],
  ])("%s: its record is one that api takes, and counts no less than it may have cost", async (_, usage) => {
    const { records } = await answered("/v1/messages", ask, [started, ended(usage)]);
    expect(records).toHaveLength(3);
    for (const record of records) {
      expect(gatewayRecord.safeParse(record).success).toBe(true);
      if (!("iterations" in usage)) expect(record.output_tokens).toBe(1000);
      expect(record.usd_nano).toBeGreaterThan(1000 * 10_000);
    }
  });

  test("a total in every chunk of a chat counts when it is the last", async () => {
    const chunk = (completion_tokens: number) => ({
      choices: [{ index: 0, delta: { content: "x" } }],
      usage: { prompt_tokens: 10, completion_tokens },
    });
    const chat = { model: "gpt-6.2-sol", messages: ask.messages, stream_options: { include_usage: true } };
    const chunks = [chunk(1), chunk(2), chunk(700)];
    const { records } = await answered("/v1/chat/completions", chat, chunks, "data: [DONE]\n\n");
    expect(records).toHaveLength(3);
    for (const record of records) expect(record).toMatchObject({ output_tokens: 700, estimated: false });
    const cut = await answered("/v1/chat/completions", { ...chat, max_tokens: 1500 }, chunks);
    for (const record of cut.records) expect(record).toMatchObject({ output_tokens: 1500, estimated: true });
  });
});

test("no limit, and one of none, is no way to have more than the budget", async () => {
  const provider = startProvider();
  await using lane = startLlmLane(provider, { grant: { max_output_tokens: 5000 } });
  const messages = [{ role: "user", content: "x" }];
  const silent = await lane.post("/v1/messages", { model, messages });
  expect(silent.status).toBe(200);
  expect(provider.requests.at(-1)?.json.max_tokens).toBeWithin(1, 5001);
  for (const [route, body] of [
    ["/v1/chat/completions", { max_tokens: 0 }],
    ["/v1/chat/completions", { max_tokens: 0, max_completion_tokens: 10 }],
    ["/v1/responses", { max_output_tokens: 0 }],
  ] as const) {
    const answer = await lane.post(route, { model: "gpt-6.2-sol", messages, input: "x", ...body });
    expect([answer.status, await answer.text()]).toEqual([400, expect.stringContaining("is 0.")]);
  }
  expect(provider.requests).toHaveLength(1);
  await provider.stop();
});
