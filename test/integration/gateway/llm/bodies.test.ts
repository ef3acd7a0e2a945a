import { describe, expect, test } from "bun:test";
import { startLlmLane } from "../../../fixtures/llm-lane.ts";
import { ASK, MODEL, standIn } from "../../../fixtures/llm-stand-in.ts";

const { provider } = standIn();

describe("bodies that two readers could take for two things", () => {
  const good = JSON.stringify(ASK);
  const cases: [what: string, body: string | Uint8Array, words: string][] = [
    ["model twice", good.replace("{", `{"model":"claude-opus-5",`), 'has the key "model" twice'],
    [
      "model twice, one escaped",
      good.replace("{", `{"mod\\u0065l":"claude-opus-5",`),
      'has the key "model" twice',
    ],
    ["Model beside model", good.replace("{", `{"Model":"claude-opus-5",`), "is spelled"],
    ["tools in capitals", good.replace("{", `{"TOOLS":[{"type":"web_search_20250305"}],`), "is spelled"],
    ["messages with a long s", good.replace("{", `{"me\u017f\u017fages":[],`), "is spelled"],
    ["max_tokens with a Kelvin sign", good.replace("{", `{"max_to\u212aens":9,`), "is spelled"],
    ["max_tokens twice", good.replace("{", `{"max_tokens":1,`), 'has the key "max_tokens" twice'],
    [
      "a type twice, deep inside",
      good.replace('"hello"', `[{"type":"text","type":"image"}]`),
      'the key "type" twice',
    ],
    ["a list", "[]", "not a JSON object"],
    ["no JSON", "{", "is not JSON"],
    ["a mark before it", `\uFEFF${good}`, "is not JSON"],
    ["no UTF-8", Buffer.concat([Buffer.from(good), Buffer.of(0xff)]), "is not JSON"],
    ["too deep", good.replace('"hello"', "[".repeat(200) + "]".repeat(200)), "deep"],
    ["far too deep", "[".repeat(200_000), "is not JSON"],
    ["no model", '{"max_tokens":1}', "names no model"],
    ["a model that is none", '{"model":["claude-sonnet-5-5"]}', "names no model"],
    ["stream that is no flag", good.replace("{", '{"stream":"yes",'), "stream"],
    ["max_tokens below zero", good.replace("1000", "-1"), "max_tokens"],
    ["max_tokens without end", good.replace("1000", "1e30"), "max_tokens"],
  ];
  test.each(cases)("%s", async (_, body, words) => {
    await using lane = startLlmLane(provider, { grant: { models: [MODEL] } });
    const answer = await lane.post("/v1/messages", body);
    expect(answer.status).toBe(400);
    expect(((await answer.json()) as { error: { message: string } }).error.message).toContain(words);
    expect(provider.requests).toHaveLength(0);
    // The control: it is only that which is refused.
    expect((await lane.post("/v1/messages", good)).status).toBe(200);
  });

  test("a body that is packed, and one that is too large", async () => {
    await using lane = startLlmLane(provider);
    const packed = await lane.post("/v1/messages", Bun.gzipSync(good), { "content-encoding": "gzip" });
    expect(packed.status).toBe(400);
    const large = await lane.post("/v1/messages", " ".repeat(33 * 1024 * 1024));
    expect(large.status).toBe(413);
    expect(provider.requests).toHaveLength(0);
  });
});
