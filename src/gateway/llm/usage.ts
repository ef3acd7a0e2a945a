import type { TokenUse } from "../../prices/prices.ts";

/** What an answer has told of its cost. */
export interface Told {
  readonly use: TokenUse;
  /** How it was served, of what the price depends on. */
  readonly modes: readonly string[];
  /** Whether that is all of it: else the answer was cut, or goes on. */
  readonly final: boolean;
  /** What other models have done for it, each at its own price. */
  readonly others: readonly { readonly model: string | null; readonly use: TokenUse }[];
}

/** Reads one answer's cost out of it. Both take what JSON.parse gave, whatever that is. */
export interface UsageReader {
  /** Of a stream: one event's data. Those that don't hold `usage` need not be told. */
  event(data: unknown): void;
  /** Of an answer in one piece. */
  whole(body: unknown): void;
  /** A stream has said itself that it is over. */
  done(): void;
  told(): Told | null;
}

type Fields = Readonly<Record<string, unknown>>;

export function fieldsOf(value: unknown): Fields {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? (value as Fields) : {};
}

/** More than any answer has. What says so is wrong, and such numbers could not be added up and stay whole. */
const MAX_TOKENS = 1_000_000_000;

/** A number of tokens, or null where there is none. */
function count(value: unknown): number | null {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MAX_TOKENS
    ? value
    : null;
}

/** Anthropic's: a field's last value over message_start and message_delta counts, since they are running totals. */
export function createMessagesUsage(): UsageReader {
  let fields: Fields | null = null;
  let final = false;
  const merge = (usage: unknown) => {
    const known = Object.entries(fieldsOf(usage)).filter(([, value]) => value !== null);
    if (known.length > 0) fields = { ...fields, ...Object.fromEntries(known) };
  };
  return {
    event(data) {
      const { type, message, usage, delta } = fieldsOf(data);
      if (type === "message_start") merge(fieldsOf(message)["usage"]);
      if (type !== "message_delta") return;
      merge(usage);
      final ||= typeof fieldsOf(delta)["stop_reason"] === "string";
    },
    whole(body) {
      merge(fieldsOf(body)["usage"]);
      final = fields !== null;
    },
    done() {},
    told() {
      if (fields === null || !areCounts(fields["input_tokens"], fields["output_tokens"])) return null;
      const { speed, inference_geo, iterations } = fields;
      return {
        use: messagesUse(fields),
        modes: modesOf(speed, inference_geo),
        final,
        others: (Array.isArray(iterations) ? iterations : [])
          .map(fieldsOf)
          // Those of the model itself are in the totals.
          .filter(({ type }) => type === "compaction" || type === "advisor_message")
          .map((one) => ({
            model: typeof one["model"] === "string" ? one["model"] : null,
            use: messagesUse(one),
          })),
      };
    },
  };
}

/** Without both nobody knows what it cost, and that is not nothing. */
function areCounts(...values: readonly unknown[]): boolean {
  return values.every((value) => count(value) !== null);
}

function messagesUse(usage: Fields): TokenUse {
  const creation = fieldsOf(usage["cache_creation"]);
  const long = count(creation["ephemeral_1h_input_tokens"]) ?? 0;
  const written =
    count(usage["cache_creation_input_tokens"]) ?? (count(creation["ephemeral_5m_input_tokens"]) ?? 0) + long;
  return {
    input: count(usage["input_tokens"]) ?? 0,
    cacheRead: count(usage["cache_read_input_tokens"]) ?? 0,
    cacheWrite: Math.max(0, written - long),
    cacheWriteLong: Math.min(long, written),
    output: count(usage["output_tokens"]) ?? 0,
  };
}

/** What a price may depend on, in Anthropic's words. */
export function modesOf(speed: unknown, geo: unknown): string[] {
  const modes: string[] = [];
  if (typeof speed === "string" && speed !== "standard") modes.push(speed);
  if (typeof geo === "string" && !["global", "not_available"].includes(geo)) modes.push(geo);
  return modes;
}

/** In OpenAI's: "fast" is another word for "priority". "auto" is whatever the provider's project is set to. */
export function tierOf(tier: unknown): string[] {
  if (typeof tier !== "string" || ["auto", "default", "standard", "scale"].includes(tier)) return [];
  return [tier === "fast" ? "priority" : tier];
}

/** The Responses API: all of it comes with the last event. */
export function createResponsesUsage(): UsageReader {
  let told: Told | null = null;
  const take = (response: Fields) => {
    const usage = response["usage"];
    if (usage === null || typeof usage !== "object") return;
    const { input_tokens, input_tokens_details, output_tokens } = fieldsOf(usage);
    if (!areCounts(input_tokens, output_tokens)) return;
    told = {
      use: openaiUse(input_tokens, fieldsOf(input_tokens_details), output_tokens),
      modes: tierOf(response["service_tier"]),
      final: true,
      others: [],
    };
  };
  return {
    event(data) {
      const { type, response } = fieldsOf(data);
      if (["response.completed", "response.incomplete", "response.failed"].includes(String(type))) {
        take(fieldsOf(response));
      }
    },
    whole: (body) => take(fieldsOf(body)),
    done() {},
    told: () => told,
  };
}

/**
 * Chat Completions: in a chunk of its own at the end, when the request asked for it. Some servers tell it in every chunk,
 * a running total, by themselves or when a request asks for that, too.
 */
export function createChatUsage(): UsageReader {
  let told: Told | null = null;
  const take = (chunk: Fields, final: boolean) => {
    const usage = chunk["usage"];
    if (usage === null || typeof usage !== "object") return;
    const { prompt_tokens, prompt_tokens_details, completion_tokens, total_tokens } = fieldsOf(usage);
    const [input, said] = [count(prompt_tokens), count(completion_tokens)];
    if (input === null || said === null) return;
    // What a model thought is in some servers' total alone.
    const output = Math.max(said, (count(total_tokens) ?? 0) - input);
    told = {
      use: openaiUse(input, fieldsOf(prompt_tokens_details), output),
      modes: tierOf(chunk["service_tier"]),
      final,
      others: [],
    };
  };
  return {
    event(data) {
      const chunk = fieldsOf(data);
      take(chunk, Array.isArray(chunk["choices"]) && chunk["choices"].length === 0);
    },
    whole: (body) => take(fieldsOf(body), true),
    done() {
      if (told !== null) told = { ...told, final: true };
    },
    told: () => told,
  };
}

/** OpenAI counts what the cache had within the input. */
function openaiUse(input: unknown, details: Fields, output: unknown): TokenUse {
  const all = count(input) ?? 0;
  const cacheRead = Math.min(all, count(details["cached_tokens"]) ?? 0);
  const written = Math.min(all - cacheRead, count(details["cache_write_tokens"]) ?? 0);
  const long = Math.min(
    written,
    count(fieldsOf(details["cache_write_tokens_details"])["ttl_12h_tokens"]) ?? 0,
  );
  return {
    input: all - cacheRead - written,
    cacheRead,
    cacheWrite: written - long,
    cacheWriteLong: long,
    output: count(output) ?? 0,
  };
}
