import { flagOf, isGiven, limitOf, modelOf, numberOf, otherModels, type Api } from "./api.ts";
import { withKey } from "./body.ts";
import { noMedia } from "./media.ts";
import { keysOutside, searchingModel, sourceOutside, toolsOutside } from "./openai.ts";
import { Refused } from "./refusal.ts";
import { cacheOf } from "./responses.ts";
import { createChatUsage, fieldsOf, tierOf } from "./usage.ts";

const MAX_ANSWERS = 128;

/** OpenAI's POST /v1/chat/completions, which most other servers have, too. */
export const chat: Api = {
  route: "/v1/chat/completions",
  dialect: "openai",
  judge(body) {
    const { json } = body;
    const media = noMedia();
    const model = modelOf(body);
    const answers = Math.max(numberOf(body, "n") ?? 1, numberOf(body, "best_of") ?? 1);
    if (answers < 1 || answers > MAX_ANSWERS) {
      throw new Refused("request", `The request's n is not between 1 and ${MAX_ANSWERS}.`);
    }
    const limits = [limitOf(body, "max_completion_tokens"), limitOf(body, "max_tokens")].filter(
      (limit) => limit !== null,
    );
    return {
      model,
      stream: flagOf(body, "stream"),
      // Whichever of the two a server heeds.
      maxOutput: limits.length === 0 ? null : Math.max(...limits),
      leastOutput: 0,
      answers,
      modes: tierOf(json["service_tier"]),
      cache: cacheOf(body),
      media,
      others: otherModels(body),
      providerSide:
        keysOutside(json) ??
        searchingModel(model) ??
        toolsOutside(json["tools"]) ??
        sourceOutside(json["messages"], media),
    };
  },
  withLimit(body, tokens, isOpenAi) {
    const there = ["max_completion_tokens", "max_tokens"].filter((key) => isGiven(body.json[key]));
    // Other servers know only the older name, and OpenAI's newer models only the newer.
    const keys = there.length > 0 ? there : [isOpenAi ? "max_completion_tokens" : "max_tokens"];
    return keys.reduce((limited, key) => withKey(limited, key, tokens), body);
  },
  accounted(body, { stream }) {
    const options = fieldsOf(body.json["stream_options"]);
    if (!stream || options["include_usage"] === true) return { body, isExtra: null };
    return {
      body: withKey(body, "stream_options", { ...options, include_usage: true }),
      isExtra: isUsageAlone,
    };
  },
  usage: createChatUsage,
};

function isUsageAlone(data: unknown): boolean {
  const { choices, usage } = fieldsOf(data);
  return Array.isArray(choices) && choices.length === 0 && isGiven(usage);
}
