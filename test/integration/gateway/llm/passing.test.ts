import { describe, expect, test } from "bun:test";
import { startLlmLane } from "../../../fixtures/llm-lane.ts";
import { ASK, MODEL, standIn } from "../../../fixtures/llm-stand-in.ts";

const { goWrong, provider } = standIn();

describe("what is passed on", () => {
  test("the body, byte for byte, and the answer's events, byte for byte", async () => {
    await using lane = startLlmLane(provider);
    const body = `{"stream":true, "max_tokens":1000,"big":12345678901234567890,"float":1.0,"unknown":{"a":[1,2]},"model":"${MODEL}","messages":[{"role":"user","content":"\\u00fc \\ud83d\\ude00"}]}`;
    const answer = await lane.post("/v1/messages", body);
    const text = await answer.text();
    expect(provider.requests[0]?.text).toBe(body);
    expect(answer.headers.get("anthropic-ratelimit-requests-remaining")).toBe("99");
    const direct = await fetch(`${provider.url}/v1/messages`, {
      method: "POST",
      headers: { "x-api-key": provider.key },
      body,
    });
    const withoutIds = (events: string) => events.replaceAll(/msg_[0-9a-f]+/g, "msg");
    expect(withoutIds(text)).toBe(withoutIds(await direct.text()));
  });

  test("each event at once, while the provider is still thinking", async () => {
    await using lane = startLlmLane(provider);
    goWrong({ kind: "stall", afterEvents: 4 });
    const answer = await lane.post("/v1/messages", { ...ASK, stream: true });
    const reader = answer.body!.getReader();
    let text = "";
    while (!text.includes("one ")) text += new TextDecoder().decode((await reader.read()).value);
    await reader.cancel();
  });

  test("a stream of chat whose events the network has cut anywhere, without the one that only we asked for", async () => {
    const events = ["a", "b"].map(
      (content) => `data: {"choices":[{"delta":{"content":"${content}é"}}],"usage":null}\r\n\r\n`,
    );
    const extra = 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\r\n\r\n';
    const bytes = Buffer.from(`${events.join("")}${extra}data: [DONE]\r\n\r\n`);
    using server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch: () =>
        new Response(
          (async function* () {
            for (const byte of bytes) {
              yield Buffer.of(byte);
              await Bun.sleep(0);
            }
          })() as unknown as ReadableStream,
          { headers: { "content-type": "text/event-stream" } },
        ),
    });
    await using lane = startLlmLane(provider, { baseUrl: `http://127.0.0.1:${server.port}` });
    const answer = await lane.post("/v1/chat/completions", { model: "gpt-5", messages: [], stream: true });
    expect(await answer.text()).toBe(`${events.join("")}data: [DONE]\r\n\r\n`);
    expect(await lane.records()).toMatchObject([{ input_tokens: 3, output_tokens: 4, estimated: false }]);
  });
});
