import Anthropic, { APIError } from "@anthropic-ai/sdk";
import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import OpenAI from "openai";
import { CREDENTIALS, startLlmLane } from "../../../fixtures/llm-lane.ts";
import { startProvider, type Script } from "../../../fixtures/provider.ts";
import { until } from "../../../fixtures/until.ts";

/** The published SDKs, as a program in a run uses them. */
const provider = startProvider();
const usual = provider.behaviour.script;
afterAll(() => provider.stop());
beforeEach(() => {
  provider.requests.length = 0;
  provider.behaviour.script = usual;
});

const TOKEN = `sk-ant-${"ab".repeat(32)}`;
const anthropic = (url: string, maxRetries = 0) => new Anthropic({ baseURL: url, apiKey: TOKEN, maxRetries });
const openai = (url: string, maxRetries = 0) =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey: TOKEN, maxRetries });
const SONNET = "claude-sonnet-5-5";
const ask = { model: SONNET, max_tokens: 1000, messages: [{ role: "user" as const, content: "hello" }] };

const says =
  (text: string, over: Partial<ReturnType<Script>> = {}): Script =>
  () => ({ text, ...over });

describe("Anthropic's SDK", () => {
  test("streams a message, whose cost is told by the last of its running totals", async () => {
    await using lane = startLlmLane(provider);
    const usage = { input: 100, cacheRead: 1000, cacheWrite: 200, cacheWriteLong: 300, output: 40 };
    provider.behaviour.script = says("one two three", { usage });
    const stream = anthropic(lane.url).messages.stream(ask);
    const words: string[] = [];
    stream.on("text", (text) => void words.push(text));
    const message = await stream.finalMessage();
    expect(words).toEqual(["one ", "two ", "three"]);
    expect(message.usage).toMatchObject({ input_tokens: 100, output_tokens: 40 });
    expect(await lane.records()).toMatchObject([
      {
        credential: CREDENTIALS.anthropic,
        model: SONNET,
        route: "/v1/messages",
        status: 200,
        input_tokens: 100,
        cache_read_tokens: 1000,
        cache_write_tokens: 500,
        output_tokens: 40,
        // Dollars a million: 2 in, 0.1 from the cache, 2.5 and 4 into it, 10 out.
        usd_nano: 100 * 2000 + 1000 * 100 + 200 * 2500 + 300 * 4000 + 40 * 10_000,
        estimated: false,
        content: null,
      },
    ]);
  });

  test("gets a message in one piece, counts tokens, lists models", async () => {
    await using lane = startLlmLane(provider, { grant: { models: [SONNET, "claude-haiku-4-5"] } });
    const client = anthropic(lane.url);
    const message = await client.messages.create(ask);
    expect(message.content).toMatchObject([{ type: "text", text: "Hello from the stand-in provider." }]);
    const { messages, model } = ask;
    expect((await client.messages.countTokens({ model, messages })).input_tokens).toBeGreaterThan(0);
    const models = await Array.fromAsync(client.models.list());
    expect(models.map(({ id }) => id)).toEqual([SONNET, "claude-haiku-4-5"]);
    expect((await client.models.retrieve(SONNET)).id).toBe(SONNET);
    // The list is the gateway's own.
    expect(provider.requests.map(({ path }) => path)).toEqual(["/v1/messages", "/v1/messages/count_tokens"]);
    expect((await lane.records()).map(({ route, usd_nano }) => [route, usd_nano > 0])).toEqual([
      ["/v1/messages", true],
      ["/v1/messages/count_tokens", false],
    ]);
  });

  test("has its headers passed on, and the run's token replaced", async () => {
    await using lane = startLlmLane(provider);
    const headers = {
      "anthropic-beta": "one-2026-01-01,two",
      "x-stainless-test": "1",
      cookie: "a=b",
      "x-forwarded-for": "192.0.2.1",
      forwarded: "for=192.0.2.1",
      "proxy-authorization": "Basic x",
      "x-goog-api-key": "y",
      // With these, relays that are in use send a request, and what is in it, wherever they say.
      "helicone-target-url": "https://attacker.test",
      "x-portkey-custom-host": "https://attacker.test",
      authorization: `Bearer ${TOKEN}`,
    };
    await anthropic(lane.url).messages.create(ask, { headers, query: { beta: "true", key: TOKEN } });
    const [sent] = provider.requests;
    expect(sent?.path).toBe("/v1/messages?beta=true");
    expect(sent?.headers).toMatchObject({
      "anthropic-version": expect.stringMatching(/^\d{4}-/),
      "anthropic-beta": "one-2026-01-01,two",
      "x-stainless-test": "1",
      "x-api-key": provider.key,
    });
    for (const name of [
      "cookie",
      "x-forwarded-for",
      "forwarded",
      "proxy-authorization",
      "x-goog-api-key",
      "helicone-target-url",
      "x-portkey-custom-host",
      "authorization",
    ]) {
      expect(sent?.headers).not.toHaveProperty(name);
    }
    expect(JSON.stringify(sent)).not.toContain(TOKEN);
  });

  test("shows what the budget refuses, after one request", async () => {
    await using lane = startLlmLane(provider, { grant: { max_usd_nano: 1_000_000 } });
    const error = await anthropic(lane.url, 5)
      .messages.create(ask)
      .catch((error: unknown) => error);
    expect(error).toBeInstanceOf(APIError);
    expect(error).toMatchObject({ status: 402, error: { error: { type: "billing_error" } } });
    expect((error as Error).message).toContain("is left of the run's budget of $0.0010");
    expect(lane.denials).toHaveLength(1);
    expect(lane.denials[0]).toMatchObject({ lane: "llm", reason: "budget" });
    expect(provider.requests).toHaveLength(0);
  });

  test("waits and asks again when the provider says so", async () => {
    await using lane = startLlmLane(provider);
    let calls = 0;
    provider.behaviour.script = () => {
      calls += 1;
      if (calls > 1) return { text: "well then" };
      return {
        fault: { kind: "status", status: 429, headers: { "retry-after": "0", "x-should-retry": "true" } },
      };
    };
    const { data, response } = await anthropic(lane.url, 2).messages.create(ask).withResponse();
    expect(data.content).toMatchObject([{ text: "well then" }]);
    expect(response.headers.get("request-id")).toBe("req_test");
    expect((await lane.records()).map(({ status, usd_nano }) => [status, usd_nano > 0])).toEqual([
      [429, false],
      [200, true],
    ]);
  });
});

describe("OpenAI's SDK", () => {
  const model = "gpt-6.2-sol";

  test("streams a response", async () => {
    await using lane = startLlmLane(provider, { grant: { max_usd_nano: 5e9 } });
    const usage = { input: 100, cacheRead: 1000, cacheWrite: 200, cacheWriteLong: 300, output: 40 };
    provider.behaviour.script = says("one two", { usage, serviceTier: "priority" });
    const types: string[] = [];
    let text = "";
    const stream = await openai(lane.url).responses.create({ model, input: "hello", stream: true });
    for await (const event of stream) {
      types.push(event.type);
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    expect(text).toBe("one two");
    expect(types.at(-1)).toBe("response.completed");
    // Half of what is left was its most; the price has twice the rates for what was served with priority.
    expect(provider.requests[0]?.json.max_output_tokens).toBe(128_000);
    expect(provider.requests[0]?.headers["authorization"]).toBe(`Bearer ${provider.key}`);
    expect(await lane.records()).toMatchObject([
      {
        route: "/v1/responses",
        input_tokens: 100,
        cache_read_tokens: 1000,
        cache_write_tokens: 500,
        output_tokens: 40,
        usd_nano: 2 * (100 * 2000 + 1000 * 100 + 200 * 2500 + 300 * 5000 + 40 * 10_000),
      },
    ]);
  });

  test.each([true, false])("streams a chat; asks for usage itself: %p", async (include_usage) => {
    await using lane = startLlmLane(provider);
    provider.behaviour.script = says("one two", { usage: { input: 10, cacheRead: 5, output: 7 } });
    const stream = await openai(lane.url).chat.completions.create({
      model,
      messages: [{ role: "user", content: "hello" }],
      stream: true,
      ...(include_usage ? { stream_options: { include_usage } } : {}),
    });
    const chunks = await Array.fromAsync(stream);
    expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("")).toBe("one two");
    expect(chunks.filter(({ choices }) => choices.length === 0)).toHaveLength(include_usage ? 1 : 0);
    expect(provider.requests[0]?.json.stream_options).toEqual({ include_usage: true });
    expect(await lane.records()).toMatchObject([
      { route: "/v1/chat/completions", input_tokens: 10, cache_read_tokens: 5, output_tokens: 7 },
    ]);
  });

  test("gets answers in one piece, and a model's name refused in words", async () => {
    await using lane = startLlmLane(provider, { grant: { models: [model] } });
    const client = openai(lane.url, 5);
    const response = await client.responses.create({ model, input: "hello" });
    expect(response.output_text).toBe("Hello from the stand-in provider.");
    const chat = await client.chat.completions.create({
      model,
      messages: [{ role: "user", content: "hello" }],
    });
    expect(chat.choices[0]?.message.content).toBe("Hello from the stand-in provider.");
    const error = await client.responses
      .create({ model: "gpt-6-astra", input: "x" })
      .catch((error: unknown) => error);
    expect(error).toMatchObject({ status: 400, type: "invalid_request_error" });
    expect((error as Error).message).toContain("The run may not use the model gpt-6-astra.");
    expect(lane.denials).toEqual([
      { lane: "llm", reason: "model", detail: "The run may not use the model gpt-6-astra." },
    ]);
    expect(provider.requests).toHaveLength(2);
    expect((await Array.fromAsync(client.models.list())).map(({ id }) => id)).toEqual([model]);
  });

  test("stops at a spent budget after one request", async () => {
    await using lane = startLlmLane(provider, { grant: { max_requests: 1 } });
    const client = openai(lane.url, 5);
    await client.responses.create({ model, input: "hello" });
    const error = await client.responses.create({ model, input: "hello" }).catch((error: unknown) => error);
    expect(error).toMatchObject({ status: 429, code: "insufficient_quota" });
    expect(provider.requests).toHaveLength(1);
    expect(lane.denials).toHaveLength(1);
  });
});

test("a caller that leaves ends the provider's answer, which counts as what it may have cost", async () => {
  await using lane = startLlmLane(provider);
  provider.behaviour.script = says("word ".repeat(500), { pauseMs: 20 });
  const stream = anthropic(lane.url).messages.stream(ask);
  await new Promise<void>((resolve) => stream.once("text", () => resolve()));
  stream.abort();
  await stream.done().catch(() => undefined);
  await until(async () => (await lane.records()).length === 1);
  expect(await lane.records()).toMatchObject([{ input_tokens: 25, output_tokens: 1000, estimated: true }]);
});
