import { Refused } from "./refusal.ts";

/** A request's body: as it came, and as it is read. */
export interface Body {
  readonly text: string;
  readonly json: Readonly<Record<string, unknown>>;
}

const MAX_DEPTH = 100;
/** Far more than a long conversation and many tools have. Reading one takes time that all runs share, and memory. */
const MAX_VALUES = 200_000;
/** What one takes of memory beyond its text. */
const VALUE_BYTES = 64;
/**
 * What is judged at the top. Some servers (those in Go) take "Model" for "model", so these may stand there in no other
 * spelling.
 */
const JUDGED = new Set([
  "model",
  "stream",
  "stream_options",
  "messages",
  "input",
  "system",
  "tools",
  "n",
  "best_of",
  "max_tokens",
  "max_completion_tokens",
  "max_output_tokens",
  "service_tier",
  "speed",
  "inference_geo",
  "mcp_servers",
  "container",
  "fallbacks",
  "thread",
  "background",
  "conversation",
  "prompt",
  "previous_response_id",
  "web_search_options",
  "models",
  "plugins",
  "search_parameters",
  "enable_search",
  "extra_body",
  "extra_headers",
  "api_base",
  "base_url",
]);

/**
 * Throws a Refused for what two readers could take for two different things. `take` is told how much memory it will have, and
 * may throw one, too, before it has.
 */
export function parseBody(bytes: Uint8Array, take: (bytes: number) => void = () => {}): Body {
  const text = jsonOr(() => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  const values = valuesIn(text);
  if (values > MAX_VALUES) {
    throw new Refused("too_large", `A request may have ${MAX_VALUES} values, and this one has more.`);
  }
  take(values * VALUE_BYTES);
  const json = jsonOr((): unknown => JSON.parse(text));
  if (json === null || typeof json !== "object" || Array.isArray(json)) {
    throw new Refused("request", "The request's body is not a JSON object.");
  }
  const problem = problemOfKeys(text);
  if (problem !== null) throw new Refused("request", `The request's body ${problem}.`);
  return { text, json: json as Record<string, unknown> };
}

function jsonOr<T>(read: () => T): T {
  try {
    return read();
  } catch {
    throw new Refused("request", "The request's body is not JSON.");
  }
}

/** How many there are at least, in objects and arrays, of what may be no JSON. */
function valuesIn(text: string): number {
  let count = 0;
  for (let at = 0; at < text.length && count <= MAX_VALUES; at += 1) {
    const code = text.charCodeAt(at);
    if (code === 0x2c || code === 0x7b || code === 0x5b) count += 1;
    if (code !== 0x22) continue;
    const end = endOfString(text, at);
    // Names are compared with each other, and cost more than as many bytes of text.
    if (isKey(text, end)) count += Math.floor((end - at) / VALUE_BYTES);
    at = end - 1;
  }
  return count;
}

/** The syntax of `text` is right: JSON.parse has taken it. */
function problemOfKeys(text: string): string | null {
  /** Of each object or array around: its keys, null for an array. */
  const around: (Set<string> | null)[] = [];
  for (let at = 0; at < text.length; at += 1) {
    switch (text.charCodeAt(at)) {
      case 0x7b: // {
        around.push(new Set());
        break;
      case 0x5b: // [
        around.push(null);
        break;
      case 0x7d: // }
      case 0x5d: // ]
        around.pop();
        break;
      case 0x22: {
        const end = endOfString(text, at);
        const keys = around.at(-1);
        if (keys && isKey(text, end)) {
          const key = keyOf(text.slice(at, end));
          if (keys.has(key)) return `has the key ${JSON.stringify(key)} twice`;
          keys.add(key);
          const lower = around.length === 1 ? folded(key) : key;
          if (key !== lower && JUDGED.has(lower)) {
            return `has the key ${JSON.stringify(key)}, which is spelled ${JSON.stringify(lower)}`;
          }
        }
        at = end - 1;
      }
    }
    if (around.length > MAX_DEPTH) return `is nested more than ${MAX_DEPTH} deep`;
  }
  return null;
}

/** As those servers compare: "ſ" and "K", too, are letters in another case to them. */
export function folded(key: string): string {
  return key.toUpperCase().toLowerCase();
}

/** After its closing quote; where there is none, after all. */
function endOfString(text: string, begin: number): number {
  for (let at = text.indexOf('"', begin + 1); ; at = text.indexOf('"', at + 1)) {
    if (at === -1) return text.length;
    let backslashes = 0;
    while (text.charCodeAt(at - 1 - backslashes) === 0x5c) backslashes += 1;
    if (backslashes % 2 === 0) return at + 1;
  }
}

function isKey(text: string, end: number): boolean {
  let at = end;
  while (text.charCodeAt(at) <= 0x20) at += 1;
  return text.charCodeAt(at) === 0x3a;
}

function keyOf(quoted: string): string {
  return quoted.includes("\\") ? (JSON.parse(quoted) as string) : quoted.slice(1, -1);
}

/** The body with a key at its top that says something else, or is new; all besides stays byte for byte. */
export function withKey({ text, json }: Body, key: string, value: unknown): Body {
  const changed = { ...json, [key]: value };
  const said = JSON.stringify(value);
  if (!(key in json)) {
    const begin = text.indexOf("{") + 1;
    const comma = Object.keys(json).length === 0 ? "" : ",";
    const added = `${JSON.stringify(key)}:${said}${comma}`;
    return { text: text.slice(0, begin) + added + text.slice(begin), json: changed };
  }
  const [begin, end] = placeOf(text, key);
  return { text: text.slice(0, begin) + said + text.slice(end), json: changed };
}

/** From where to where the value of a key at the top stands. */
function placeOf(text: string, key: string): [begin: number, end: number] {
  let depth = 0;
  let begin: number | null = null;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (depth === 1 && begin !== null && (code === 0x2c || code === 0x7d)) return [begin, at];
    if (code === 0x7b || code === 0x5b) depth += 1;
    else if (code === 0x7d || code === 0x5d) depth -= 1;
    else if (code === 0x22) {
      const end = endOfString(text, at);
      const isIt = depth === 1 && isKey(text, end) && keyOf(text.slice(at, end)) === key;
      if (isIt) begin = text.indexOf(":", end) + 1;
      at = (isIt ? (begin ?? end) : end) - 1;
    }
  }
  throw new Error(`there is no ${key}`);
}
