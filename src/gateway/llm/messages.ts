import { flagOf, isGiven, listOf, modelOf, numberOf, otherModels, type Api } from "./api.ts";
import { withKey, type Body } from "./body.ts";
import { addMedia, noMedia, type Media } from "./media.ts";
import { createMessagesUsage, fieldsOf, modesOf } from "./usage.ts";

/** Anthropic's POST /v1/messages. */
export const messages: Api = {
  route: "/v1/messages",
  dialect: "anthropic",
  judge(body) {
    const media = noMedia();
    const { json } = body;
    const { type, budget_tokens } = fieldsOf(json["thinking"]);
    const budget = type === "enabled" && typeof budget_tokens === "number" ? budget_tokens : null;
    return {
      model: modelOf(body),
      stream: flagOf(body, "stream"),
      // Anthropic wants it to be there; other servers have what they will for it.
      maxOutput: numberOf(body, "max_tokens"),
      // What it thinks with is a part of max_tokens, and has to be less.
      leastOutput: (budget ?? -1) + 1,
      answers: 1,
      modes: modesOf(json["speed"], json["inference_geo"]),
      cache: cacheOf(body),
      media,
      others: otherModels(body),
      providerSide: topLevel(json) ?? listOf(json["tools"]).map(tool).find(isFound) ?? contents(json, media),
    };
  },
  withLimit: (body, tokens) => withKey(body, "max_tokens", tokens),
  accounted: (body) => ({ body, isExtra: null }),
  usage: createMessagesUsage,
};

function cacheOf({ json, text }: Body): "none" | "short" | "long" {
  // Either word may be written so that it is not found in the text.
  const said = text.includes("\\u") ? JSON.stringify(json) : text;
  if (!said.includes('"cache_control"')) return "none";
  return /"ttl"\s*:\s*"1h"/.test(said) ? "long" : "short";
}

function isFound(found: string | null): found is string {
  return found !== null;
}

/** What reaches servers, machines, other models or earlier requests' state by itself. */
const OUTSIDE = ["mcp_servers", "container", "fallbacks", "thread"];

function topLevel(json: Body["json"]): string | null {
  return OUTSIDE.find((key) => isGiven(json[key])) ?? null;
}

/** Tools that the caller runs itself, and the search among them. Any other is run by the provider. */
const CLIENT_TOOL =
  /^(custom|bash_\d+|text_editor_\d+|memory_\d+|computer_\d+|(computer|browser)_toolset_\d+|tool_search_tool_\w+)$/;

function tool(given: unknown): string | null {
  const { type } = fieldsOf(given);
  if (!isGiven(type)) return null;
  return typeof type === "string" && CLIENT_TOOL.test(type) ? null : `the tool ${String(type).slice(0, 60)}`;
}

function contents(json: Body["json"], media: Media): string | null {
  const all = [json["system"], ...listOf(json["messages"]).map((one) => fieldsOf(one)["content"])];
  return all.map((content) => blocks(content, media)).find(isFound) ?? null;
}

function blocks(content: unknown, media: Media): string | null {
  // A plain text, or what the provider refuses.
  for (const one of listOf(content)) {
    const found = block(one, media);
    if (found !== null) return found;
  }
  return null;
}

/** Blocks in which nothing is looked for: text, or the caller's own JSON. */
const PLAIN = new Set([
  "text",
  "thinking",
  "redacted_thinking",
  "tool_use",
  "search_result",
  "tool_reference",
  "tool_removal",
  "server_tool_use",
  "tool_search_tool_result",
  "web_search_tool_result",
]);

function block(given: unknown, media: Media): string | null {
  const fields = fieldsOf(given);
  const type = String(fields["type"]).slice(0, 60);
  if (PLAIN.has(type)) return null;
  if (type === "tool_result") return blocks(fields["content"], media);
  if (type === "image" || type === "document") return source(fields["source"], type, media);
  // A tool that joins in the middle of a conversation.
  if (type === "tool_addition") return addition(fields["tool"]);
  if (type === "compaction") {
    return (
      listOf(fields["tool_changes"])
        .map((change) => addition(fieldsOf(change)["tool"]))
        .find(isFound) ?? null
    );
  }
  return `a block of the type ${type}`;
}

function addition(given: unknown): string | null {
  const { type, definition } = fieldsOf(given);
  if (!isGiven(given) || type === "tool_reference") return null;
  return type === "tool_definition" ? tool(definition) : `the tool ${String(type).slice(0, 60)}`;
}

function source(given: unknown, kind: "image" | "document", media: Media): string | null {
  const { type, data, content } = fieldsOf(given);
  if (type === "base64") addMedia(media, kind, data);
  if (type === "base64" || type === "text") return null;
  if (type === "content") return blocks(content, media);
  return `a source of the type ${String(type).slice(0, 60)}`;
}
