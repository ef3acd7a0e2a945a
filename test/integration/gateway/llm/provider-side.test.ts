import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { startLlmLane } from "../../../fixtures/llm-lane.ts";
import { startProvider } from "../../../fixtures/provider.ts";

/** What a provider would reach, run or remember by itself, for whoever is in the sandbox. */
const provider = startProvider();
afterAll(() => provider.stop());
beforeEach(() => void (provider.requests.length = 0));

const user = (...content: object[]) => ({ messages: [{ role: "user", content }] });
const input = (...items: object[]) => ({ input: items });
const said = (...content: object[]) => input({ role: "user", content });
const url = "https://attacker.test/?q=secret";
const image = "iVBORw0KGgo=";
const schema = { type: "object", properties: { file_id: { type: "string" }, type: { type: "string" } } };

const MESSAGES: Record<string, object> = {
  "web search": { tools: [{ type: "web_search_20250305", name: "web_search" }] },
  "web fetch": { tools: [{ type: "web_fetch_20260318", name: "web_fetch" }] },
  "code execution": { tools: [{ type: "code_execution_20260521", name: "code_execution" }] },
  "an MCP toolset": { tools: [{ type: "mcp_toolset", mcp_server_name: "x" }] },
  "a tool that asks another model": {
    tools: [{ type: "advisor_20260301", name: "advisor", model: "claude-opus-5" }],
  },
  "a tool that nobody knows yet": { tools: [{ type: "teleport_20270101", name: "t" }] },
  "a tool beside a good one": {
    tools: [
      { name: "f", input_schema: schema },
      { type: "web_search_20250305", name: "web_search" },
    ],
  },
  "MCP servers": { mcp_servers: [{ type: "url", url, name: "x" }] },
  "a container": { container: "cont_1" },
  "fallbacks to other models": { fallbacks: [{ model: "claude-opus-5" }] },
  "a stored thread": { thread: { id: "thread_1" } },
  "an image by URL": user({ type: "image", source: { type: "url", url } }),
  "an image by file": user({ type: "image", source: { type: "file", file_id: "file_1" } }),
  "a document by URL": user({ type: "document", source: { type: "url", url } }),
  "an image in a document": user({
    type: "document",
    source: { type: "content", content: [{ type: "image", source: { type: "url", url } }] },
  }),
  "an image in a tool's result": user({
    type: "tool_result",
    tool_use_id: "t",
    content: [{ type: "image", source: { type: "url", url } }],
  }),
  "an image in the system prompt": { system: [{ type: "image", source: { type: "url", url } }] },
  "a file for a container": user({ type: "container_upload", file_id: "file_1" }),
  "a tool in the middle": user({
    type: "tool_addition",
    tool: { type: "tool_definition", definition: { type: "web_search_20250305", name: "web_search" } },
  }),
  "a tool of an MCP server in the middle": user({
    type: "tool_addition",
    tool: { type: "mcp_tool_reference", name: "x" },
  }),
  "a block that nobody knows yet": user({ type: "hologram", url }),
};

const RESPONSES: Record<string, object> = {
  "web search": { tools: [{ type: "web_search" }] },
  "web search, as it was called": { tools: [{ type: "web_search_preview" }] },
  "file search": { tools: [{ type: "file_search", vector_store_ids: ["vs_1"] }] },
  "an MCP server": { tools: [{ type: "mcp", server_url: url, server_label: "x" }] },
  "a code interpreter": { tools: [{ type: "code_interpreter", container: { type: "auto" } }] },
  "images of its own": { tools: [{ type: "image_generation" }] },
  "a shell at the provider's": { tools: [{ type: "shell", environment: { type: "container_auto" } }] },
  "a shell of no place": { tools: [{ type: "shell" }] },
  "a tool within a namespace": { tools: [{ type: "namespace", name: "n", tools: [{ type: "web_search" }] }] },
  "a tool that nobody knows yet": { tools: [{ type: "teleport" }] },
  "tools that join later": input({
    type: "additional_tools",
    role: "developer",
    tools: [{ type: "web_search" }],
  }),
  "tools that were searched": input({ type: "tool_search_output", tools: [{ type: "web_search" }] }),
  "another request's answer": { previous_response_id: "resp_1" },
  "a conversation": { conversation: "conv_1" },
  "a stored prompt": { prompt: { id: "pmpt_1" } },
  "a stored item": input({ type: "item_reference", id: "msg_1" }),
  "an item that nobody knows yet": input({ type: "configuration_update", model: "gpt-6-astra" }),
  "an image by URL": said({ type: "input_image", image_url: url }),
  "an image by file": said({ type: "input_image", file_id: "file_1" }),
  "a file by URL": said({ type: "input_file", file_url: url }),
  "an image in a call's output": input({
    type: "function_call_output",
    call_id: "c",
    output: [{ type: "input_image", image_url: url }],
  }),
  "a model that searches": { model: "o4-mini-deep-research" },
};

const CHAT: Record<string, object> = {
  "web search": { web_search_options: {} },
  "a model that searches": { model: "gpt-4o-search-preview" },
  "a tool that is none of the caller's": { tools: [{ type: "web_search" }] },
  "an image by URL": user({ type: "image_url", image_url: { url } }),
  "a file by id": user({ type: "file", file: { file_id: "file_1" } }),
  "an image by URL in capitals": user({ type: "image_url", Image_URL: { url } }),
  "an image by two URLs": user({
    type: "image_url",
    image_url: { url: `data:image/png;base64,${image}`, URL: url },
  }),
  "a video by URL": user({ type: "video_url", video_url: { url } }),
  "sound by URL": user({ type: "audio_url", audio_url: url }),
  "a document by URL": user({ type: "document_url", document_url: url }),
  "a file of the server's": user({ type: "video_url", video_url: { url: "file:///etc/passwd" } }),
  "sound by URL where its bytes belong": user({ type: "input_audio", input_audio: { data: url } }),
  "frames by URL": user({ type: "video", video: [url, url] }),
  "a search by a key of its own": { search_parameters: { mode: "on" } },
  "a search by a flag": { enable_search: true },
  "a plugin": { plugins: [{ id: "web" }] },
  "other models": { models: ["gpt-5.5-pro"] },
  "models to fall back on": { fallbacks: ["gpt-5.5-pro"] },
  "what a relay adds to the body": { extra_body: { tools: [{ type: "web_search" }] } },
  "another server": { api_base: url },
  "a model that is online": { model: "gpt-6.2-sol:online" },
};

/** The caller's own: what must go on working. */
const OWN = {
  "/v1/messages": [
    {
      tools: [
        { name: "f", input_schema: schema },
        { type: "custom", name: "g", input_schema: schema },
      ],
    },
    {
      tools: [
        { type: "bash_20250124", name: "bash" },
        { type: "text_editor_20250728", name: "edit" },
      ],
    },
    {
      tools: [
        { type: "tool_search_tool_regex_20251119", name: "s" },
        { type: "memory_20250818", name: "memory" },
      ],
    },
    user({ type: "image", source: { type: "base64", media_type: "image/png", data: image } }),
    user({ type: "document", source: { type: "text", media_type: "text/plain", data: url } }),
    {
      system: [{ type: "text", text: url, cache_control: { type: "ephemeral" } }],
      messages: [
        { role: "user", content: url },
        {
          role: "assistant",
          content: [
            { type: "thinking", thinking: "x", signature: "y" },
            {
              type: "tool_use",
              id: "t",
              name: "f",
              input: { type: "url", file_id: "f", source: { type: "url", url } },
            },
          ],
        },
        {
          role: "user",
          content: [{ type: "tool_result", tool_use_id: "t", content: [{ type: "text", text: "x" }] }],
        },
      ],
    },
  ],
  "/v1/responses": [
    {
      tools: [
        { type: "function", name: "f", parameters: schema },
        { type: "custom", name: "apply_patch", format: { type: "grammar" } },
        { type: "shell", environment: { type: "local" } },
        { type: "namespace", name: "n", tools: [{ type: "function", name: "g", parameters: schema }] },
      ],
    },
    input(
      { role: "user", content: [{ type: "input_text", text: url }] },
      { type: "reasoning", encrypted_content: "x", summary: [] },
      { type: "function_call", call_id: "c", name: "f", arguments: '{"file_id":"x"}' },
      { type: "function_call_output", call_id: "c", output: url },
      { type: "custom_tool_call", call_id: "d", name: "apply_patch", input: "x" },
      { type: "custom_tool_call_output", call_id: "d", output: "x" },
    ),
    said({ type: "input_image", image_url: `data:image/png;base64,${image}` }),
  ],
  "/v1/chat/completions": [
    { tools: [{ type: "function", function: { name: "f", parameters: schema } }] },
    user({ type: "image_url", image_url: { url: `data:image/png;base64,${image}` } }),
    {
      messages: [
        { role: "user", content: url },
        {
          role: "assistant",
          tool_calls: [{ id: "c", type: "function", function: { name: "f", arguments: "{}" } }],
        },
        { role: "tool", tool_call_id: "c", content: url },
      ],
    },
  ],
};

const BASE = {
  "/v1/messages": { model: "claude-sonnet-5-5", max_tokens: 100, messages: [{ role: "user", content: "x" }] },
  "/v1/responses": { model: "gpt-6.2-sol", input: "x" },
  "/v1/chat/completions": { model: "gpt-6.2-sol", messages: [{ role: "user", content: "x" }] },
};

describe.each([
  ["/v1/messages", MESSAGES],
  ["/v1/responses", RESPONSES],
  ["/v1/chat/completions", CHAT],
] as const)("%s", (route, attacks) => {
  test.each(Object.entries(attacks))("%s", async (_, attack) => {
    await using lane = startLlmLane(provider);
    const refused = await lane.post(route, { ...BASE[route], ...attack });
    expect(refused.status).toBe(400);
    const { error } = (await refused.json()) as { error: { type: string; message: string } };
    expect(error.type).toBe("invalid_request_error");
    expect(error.message).toContain("reach anything by itself");
    expect(lane.denials).toMatchObject([{ reason: "provider_tools" }]);
    expect(provider.requests).toHaveLength(0);
    // A policy may allow it.
    await using allowed = startLlmLane(provider, { grant: { provider_tools: true } });
    expect((await allowed.post(route, { ...BASE[route], ...attack })).status).toBe(200);
  });

  test("the caller's own tools, text and images are let through", async () => {
    await using lane = startLlmLane(provider);
    for (const own of OWN[route]) {
      const answer = await lane.post(route, { ...BASE[route], ...own });
      expect([answer.status, await answer.text()]).toEqual([200, expect.any(String)]);
    }
  });

  test("count_tokens is judged alike", async () => {
    await using lane = startLlmLane(provider);
    for (const attack of Object.values(MESSAGES)) {
      const answer = await lane.post("/v1/messages/count_tokens", { ...BASE["/v1/messages"], ...attack });
      expect(answer.status).toBe(400);
    }
    expect(provider.requests).toHaveLength(0);
  });
});

test("responses in the background are refused whatever a policy allows: nobody would pay for them", async () => {
  await using lane = startLlmLane(provider, { grant: { provider_tools: true } });
  const answer = await lane.post("/v1/responses", { ...BASE["/v1/responses"], background: true });
  expect(answer.status).toBe(400);
  expect(provider.requests).toHaveLength(0);
});

test("other models have to be the run's, too, where a policy allows them", async () => {
  const model = "gpt-6.2-sol";
  await using lane = startLlmLane(provider, {
    grant: { provider_tools: true, models: [model, "claude-sonnet-5-5", "gpt-5.5"] },
  });
  const cases: [keyof typeof BASE, object][] = [
    ["/v1/chat/completions", { models: ["gpt-5.5-pro"] }],
    ["/v1/chat/completions", { fallbacks: [{ model: "gpt-5.5-pro" }] }],
    ["/v1/messages", { fallbacks: [{ model: "claude-opus-5" }] }],
    ["/v1/messages", { tools: [{ type: "advisor_20260301", name: "a", model: "claude-opus-5" }] }],
  ];
  for (const [route, over] of cases) {
    const answer = await lane.post(route, { ...BASE[route], ...over });
    expect([answer.status, await answer.text()]).toEqual([400, expect.stringContaining("nor have it used")]);
  }
  expect(provider.requests).toHaveLength(0);
  const good = await lane.post("/v1/chat/completions", {
    ...BASE["/v1/chat/completions"],
    models: ["gpt-5.5"],
  });
  expect(good.status).toBe(200);
});
