import { isGiven, listOf } from "./api.ts";
import { folded, type Body } from "./body.ts";
import { addMedia, type Media } from "./media.ts";
import { fieldsOf } from "./usage.ts";

/** What the two APIs of OpenAI have in common. */

/**
 * What has the provider search, or ask other models or servers, by a key of its own. Most of them are of other servers that
 * speak OpenAI's APIs, and of relays to several.
 */
const OUTSIDE = [
  "web_search_options",
  "search_parameters",
  "enable_search",
  "plugins",
  "models",
  "fallbacks",
  "extra_body",
  "extra_headers",
  "api_base",
  "base_url",
];

export function keysOutside(json: Body["json"]): string | null {
  return OUTSIDE.find((key) => isGiven(json[key]) && json[key] !== false) ?? null;
}

/** Models that search by themselves, whatever tools a request has. */
const SEARCHING = /-search\b|deep-research|:online$/;

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
  for (const [name, inner] of Object.entries(fieldsOf(value))) {
    const key = folded(name);
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
      for (const url of urlsIn(value)) {
        if (!isData(url)) return "an image_url that is no data: URL";
        addMedia(media, "image", url);
      }
      return null;
    }
    case "file_data":
      if (typeof value !== "string" || isUrl(value)) return "a file_data that is no data";
      addMedia(media, "document", value);
      return null;
    // Some servers take URLs where OpenAI's has the bytes.
    case "data":
    case "file":
    case "image":
    case "audio":
    case "video":
      return [value].flat().some(isUrl) ? `a ${key} that is a URL` : null;
    default:
      // Other servers' video_url, audio_url, document_url …
      if (!key.endsWith("_url") || urlsIn(value).every(isData)) return null;
      return `a ${key.slice(0, 60)} that is no data: URL`;
  }
}

/** What stands where a URL is wanted: itself, or in an object. */
function urlsIn(value: unknown): unknown[] {
  if (typeof value !== "object" || value === null) return [value];
  const urls = Object.entries(value).filter(([name]) => folded(name) === "url");
  return urls.length === 0 ? [null] : urls.map(([, url]) => url);
}

const isData = (url: unknown) => typeof url === "string" && /^data:/i.test(url);
const isUrl = (value: unknown) => typeof value === "string" && /^\s*[a-z][a-z0-9+.-]*:\/\//i.test(value);
