import { isGiven, listOf } from "./api.ts";
import { addMedia, type Media } from "./media.ts";
import { fieldsOf } from "./usage.ts";

/** What the two APIs of OpenAI have in common. */

/** Models that search by themselves, whatever tools a request has. */
const SEARCHING = /-search\b|deep-research/;

export function searchingModel(model: string): string | null {
  return SEARCHING.test(model) ? `the model ${model}` : null;
}

/** Tools that the caller runs itself, and the search among them. Any other is run by the provider. */
const CLIENT_TOOLS = new Set([
  "function",
  "custom",
  "local_shell",
  "apply_patch",
  "computer",
  "computer_use_preview",
  "tool_search",
]);

export function toolsOutside(tools: unknown): string | null {
  for (const one of listOf(tools)) {
    const { type, tools: inner, environment } = fieldsOf(one);
    const isLocalShell = type === "shell" && fieldsOf(environment)["type"] === "local";
    if (type === "namespace") {
      const found = toolsOutside(inner);
      if (found !== null) return found;
    } else if (!isLocalShell && !(typeof type === "string" && CLIENT_TOOLS.has(type))) {
      return `the tool ${String(type).slice(0, 60)}`;
    }
  }
  return null;
}

/** The caller's own JSON, in which a key means nothing. */
const OWN = new Set(["arguments", "parameters", "metadata"]);

/** A URL or a stored file anywhere below, that the provider would fetch. */
export function sourceOutside(value: unknown, media: Media): string | null {
  if (Array.isArray(value)) {
    for (const one of value) {
      const found = sourceOutside(one, media);
      if (found !== null) return found;
    }
    return null;
  }
  for (const [key, inner] of Object.entries(fieldsOf(value))) {
    const found = OWN.has(key) ? null : (field(key, inner, media) ?? sourceOutside(inner, media));
    if (found !== null) return found;
  }
  return null;
}

function field(key: string, value: unknown, media: Media): string | null {
  if (!isGiven(value)) return null;
  switch (key) {
    case "file_id":
    case "file_ids":
    case "file_url":
    case "vector_store_ids":
    case "container_id":
      return `a ${key}`;
    case "image_url": {
      const url = typeof value === "string" ? value : fieldsOf(value)["url"];
      if (typeof url !== "string" || !/^data:/i.test(url)) return "an image_url that is no data: URL";
      addMedia(media, "image", url);
      return null;
    }
    case "file_data":
      if (typeof value !== "string" || /^[a-z]+:\/\//i.test(value)) return "a file_data that is no data";
      addMedia(media, "document", value);
      return null;
    default:
      return null;
  }
}
