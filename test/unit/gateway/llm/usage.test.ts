import { describe, expect, test } from "bun:test";
import { createEventSplitter } from "../../../../src/gateway/llm/events.ts";
import {
  createChatUsage,
  createMessagesUsage,
  createResponsesUsage,
  type UsageReader,
} from "../../../../src/gateway/llm/usage.ts";
import { answerChat, answerMessages, answerResponses } from "../../../fixtures/provider-answers.ts";

const turn = {
  text: 'It said "usage": {"output_tokens": 999} and data: {"usage":1}\n\nevent: message_delta',
  tools: [{ name: "f", input: { usage: { output_tokens: 999 }, type: "message_delta" } }],
  usage: { input: 11, cacheRead: 12, cacheWrite: 13, cacheWriteLong: 14, output: 15 },
};
const APIS = {
  messages: { answer: answerMessages, usage: createMessagesUsage },
  responses: { answer: answerResponses, usage: createResponsesUsage },
  chat: { answer: answerChat, usage: createChatUsage },
};
const asked = { model: "m", stream_options: { include_usage: true }, metadata: { usage: "1" } };

function readAll(reader: UsageReader, pieces: Iterable<Uint8Array>): string {
  const splitter = createEventSplitter(() => true);
  let raw = "";
  const take = (cuts: ReturnType<typeof splitter.take>) => {
    for (const cut of cuts) {
      if ("unread" in cut) throw new Error("there was room");
      const { event } = cut;
      raw += Buffer.from(event.raw).toString();
      if (!event.includes('"usage"') || event.data() === "[DONE]") continue;
      reader.event(JSON.parse(event.data()));
    }
  };
  for (const piece of pieces) take(splitter.take(piece));
  take(splitter.end());
  return raw;
}

describe.each(Object.entries(APIS))("%s", (name, { answer, usage }) => {
  const { whole, events } = answer(asked, turn);
  const expected = {
    ...turn.usage,
    // Chat tells of no hours in the cache.
    ...(name === "chat" ? { cacheWrite: 27, cacheWriteLong: 0 } : {}),
  };

  test("is read from one piece", () => {
    const reader = usage();
    reader.whole(whole);
    expect(reader.told()).toMatchObject({ use: expected, final: true, others: [] });
  });

  test.each(["\n", "\r\n"])("is read from a stream that is cut anywhere, lines ending in %j", (end) => {
    const bytes = Buffer.from(events.join("").replaceAll("\n", end));
    for (const size of [1, 2, 3, 7, 64, 1000, bytes.length]) {
      const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, n) =>
        bytes.subarray(n * size, (n + 1) * size),
      );
      const reader = usage();
      expect(readAll(reader, pieces)).toBe(bytes.toString());
      expect(reader.told()).toMatchObject({ use: expected, final: true });
    }
  });

  test("is not final when the stream is cut before its end tells", () => {
    const reader = usage();
    readAll(reader, [Buffer.from(events.slice(0, events.length - 3).join(""))]);
    expect(reader.told()?.final ?? false).toBe(false);
  });

  test("is not taken from what makes no sense", () => {
    const reader = usage();
    for (const bad of [
      null,
      1,
      "x",
      [],
      { usage: null },
      { usage: "x" },
      { type: "message_delta", usage: { output_tokens: -1 } },
    ]) {
      reader.event(bad);
      reader.whole(bad);
    }
    const { output = 0 } = reader.told()?.use ?? {};
    expect(output).toBe(0);
  });
});

test("a field's last value counts, and null is none", () => {
  const reader = createMessagesUsage();
  reader.event({
    type: "message_start",
    message: { usage: { input_tokens: 5, cache_read_input_tokens: 7, output_tokens: 1 } },
  });
  expect(reader.told()).toMatchObject({ use: { input: 5, cacheRead: 7, output: 1 }, final: false });
  reader.event({
    type: "message_delta",
    delta: {},
    usage: { output_tokens: 20, cache_read_input_tokens: null },
  });
  reader.event({
    type: "message_delta",
    delta: { stop_reason: "end_turn" },
    usage: { output_tokens: 30, input_tokens: 6 },
  });
  expect(reader.told()).toMatchObject({ use: { input: 6, cacheRead: 7, output: 30 }, final: true });
});

test("what a compaction took is told besides, by its own model", () => {
  const reader = createMessagesUsage();
  const iterations = [
    { type: "message", input_tokens: 5, output_tokens: 6 },
    { type: "compaction", model: "other", input_tokens: 100, output_tokens: 10 },
  ];
  reader.whole({ usage: { input_tokens: 5, output_tokens: 6, iterations } });
  expect(reader.told()?.others).toMatchObject([{ model: "other", use: { input: 100, output: 10 } }]);
});

test.each([1, 2, 3, 7, 64])(
  "an event that has no room passes unread, and the next is read: %i at once",
  (size) => {
    const held: number[] = [];
    const splitter = createEventSplitter((bytes) => {
      const fits = bytes <= 20 * 257;
      if (fits) held.push(bytes);
      return fits;
    });
    const small = "data: small\r\n\r\n";
    const large = `data: ${"x".repeat(6000)}\n\n`;
    const bytes = Buffer.from(small + large + small + large + large + small);
    const read: string[] = [];
    let passed = "";
    const take = (cuts: ReturnType<typeof splitter.take>) => {
      for (const cut of cuts) {
        if ("event" in cut) read.push(cut.event.data());
        passed += Buffer.from("event" in cut ? cut.event.raw : cut.unread).toString();
      }
    };
    for (let at = 0; at < bytes.length; at += size) take(splitter.take(bytes.subarray(at, at + size)));
    expect(splitter.bytes).toBe(0);
    take(splitter.end());
    expect(passed).toBe(bytes.toString());
    expect(read.filter((data) => data === "small")).toHaveLength(3);
    expect(read.filter((data) => data !== "small")).toEqual([]);
    expect(held.length).toBeGreaterThan(0);
  },
);

test("a chat's running total is not its end, however early it says so", () => {
  const reader = createChatUsage();
  const chunk = (completion_tokens: number, finish_reason: string | null = null) => ({
    choices: [{ index: 0, delta: { content: "x" }, finish_reason }],
    usage: { prompt_tokens: 10, completion_tokens },
  });
  reader.event(chunk(1));
  reader.event(chunk(500, "stop"));
  expect(reader.told()).toMatchObject({ use: { input: 10, output: 500 }, final: false });
  // Of two answers one is over.
  reader.event(chunk(900));
  expect(reader.told()).toMatchObject({ use: { output: 900 }, final: false });
  reader.done();
  expect(reader.told()).toMatchObject({ use: { output: 900 }, final: true });
});

test("what a chat's model thought counts where only the total has it", () => {
  const reader = createChatUsage();
  const usage = { prompt_tokens: 10, completion_tokens: 5, total_tokens: 115 };
  reader.whole({ choices: [], usage });
  expect(reader.told()).toMatchObject({ use: { input: 10, output: 105 }, final: true });
});

test.each([-1, 1.5, 1e10, Number.MAX_SAFE_INTEGER, 1e300, "5", null, {}])(
  "%p is no number of tokens, so nobody knows what it cost",
  (bad) => {
    const messages = createMessagesUsage();
    messages.event({ type: "message_start", message: { usage: { input_tokens: 5, output_tokens: bad } } });
    messages.event({ type: "message_delta", delta: { stop_reason: "end_turn" }, usage: {} });
    const responses = createResponsesUsage();
    responses.whole({ usage: { input_tokens: 5, output_tokens: bad } });
    const chat = createChatUsage();
    chat.whole({ usage: { prompt_tokens: 5, completion_tokens: bad } });
    for (const reader of [messages, responses, chat]) expect(reader.told()).toBe(null);
  },
);
