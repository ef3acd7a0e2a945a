import { describe, expect, test } from "bun:test";
import { startLlmLane } from "../../../fixtures/llm-lane.ts";
import { ASK, standIn } from "../../../fixtures/llm-stand-in.ts";

const { provider } = standIn();
const askResponses = { model: "gpt-6.2-sol", input: "hello" };

describe("routes", () => {
  const cases: [method: string, path: string, status: number][] = [
    ["HEAD", "/", 200],
    ["POST", "/v1/messages/batches", 404],
    ["GET", "/v1/messages/batches", 404],
    ["GET", "/v1/files", 404],
    ["POST", "/v1/files", 404],
    ["GET", "/v1/organizations/usage", 404],
    ["DELETE", "/v1/models/x", 404],
    ["GET", "/v1/responses/resp_1", 404],
    ["POST", "/v1/responses/compact", 404],
    ["POST", "/v1/embeddings", 404],
    ["POST", "/v1/completions", 404],
    ["POST", "/v1//messages", 404],
    ["POST", "/v1/messages/", 404],
    ["POST", "/v1/Messages", 404],
    ["POST", "/v1/%6dessages", 404],
  ];
  test.each(cases)("%s %s: %d, and nothing reaches the provider", async (method, path, status) => {
    await using lane = startLlmLane(provider);
    const answer = await fetch(lane.url + path, {
      method,
      body: method === "POST" ? JSON.stringify(ASK) : null,
    });
    expect(answer.status).toBe(status);
    expect(provider.requests).toHaveLength(0);
  });

  test("a WebSocket gets 426, after which Codex asks by HTTP", async () => {
    await using lane = startLlmLane(provider);
    const answer = await fetch(`${lane.url}/v1/responses`, {
      headers: { connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": "13" },
    });
    expect(answer.status).toBe(426);
    expect(await answer.json()).toMatchObject({ error: { type: "invalid_request_error" } });
  });

  test("a run without a credential of that kind gets 403; of the other, an answer", async () => {
    await using lane = startLlmLane(provider, { dialects: ["openai"] });
    const refused = await lane.post("/v1/messages", ASK);
    expect(refused.status).toBe(403);
    expect(await refused.json()).toMatchObject({ type: "error", error: { type: "permission_error" } });
    expect(lane.denials).toMatchObject([{ lane: "llm", reason: "lane" }]);
    expect((await lane.post("/v1/responses", askResponses)).status).toBe(200);
  });

  test("all models are the provider's own list", async () => {
    await using lane = startLlmLane(provider, { dialects: ["openai"] });
    const list = (await (await fetch(`${lane.url}/v1/models`)).json()) as { data: { id: string }[] };
    expect(list.data.map(({ id }) => id)).toEqual(["model-a", "model-b"]);
  });
});
