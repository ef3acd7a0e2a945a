import { flagOf, isGiven, limitOf, listOf, modelOf, otherModels, type Api } from "./api.ts";
import { withKey, type Body } from "./body.ts";
import { noMedia } from "./media.ts";
import { keysOutside, searchingModel, sourceOutside, toolsOutside } from "./openai.ts";
import { Refused } from "./refusal.ts";
import { createResponsesUsage, fieldsOf, tierOf } from "./usage.ts";

/** OpenAI's POST /v1/responses. */
export const responses: Api = {
  route: "/v1/responses",
  dialect: "openai",
  judge(body) {
    const { json } = body;
    if (flagOf(body, "background")) {
      throw new Refused(
        "request",
        "Responses in the background are not served here: nobody could fetch them.",
      );
    }
    const media = noMedia();
    const model = modelOf(body);
    return {
      model,
      stream: flagOf(body, "stream"),
      maxOutput: limitOf(body, "max_output_tokens"),
      leastOutput: 0,
      answers: 1,
      modes: tierOf(json["service_tier"]),
      cache: cacheOf(body),
      media,
      others: otherModels(body),
      providerSide:
        STORED.find((key) => isGiven(json[key])) ??
        keysOutside(json) ??
        searchingModel(model) ??
        toolsOutside(json["tools"]) ??
        itemsOutside(json["input"]) ??
        sourceOutside(json["input"], media),
    };
  },
  withLimit: (body, tokens) => withKey(body, "max_output_tokens", tokens),
  accounted: (body) => ({ body, isExtra: null }),
  usage: createResponsesUsage,
};

/** What the provider keeps of other requests, maybe another run's, and of which nobody here knows how long it is. */
const STORED = ["previous_response_id", "conversation", "prompt"];

const ITEMS =
  /^(message|reasoning|compaction|compaction_trigger|(function|custom_tool|local_shell|shell|apply_patch|computer)_call(_output)?|custom_tool_call|tool_search_(call|output)|additional_tools|web_search_call)$/;

function itemsOutside(input: unknown): string | null {
  for (const item of listOf(input)) {
    const { type = "message", tools } = fieldsOf(item);
    if (typeof type !== "string" || !ITEMS.test(type))
      return `an item of the type ${String(type).slice(0, 60)}`;
    const found = toolsOutside(tools);
    if (found !== null) return found;
  }
  return null;
}

/** OpenAI's cache writes by itself; for hours only when it is told to. */
export function cacheOf({ json }: Body): "short" | "long" {
  const { ttl } = fieldsOf(json["prompt_cache_options"]);
  return ttl === undefined && json["prompt_cache_retention"] !== "24h" ? "short" : "long";
}
