import { AppError } from "../../errors.ts";
import { type Adapter } from "./adapter.ts";

/** opencode, which knows no model that its configuration does not name: the granted ones are written into one. */
export const opencode: Adapter = ({ prompt, llm, urls }) => {
  const [grant] = llm;
  const [model] = grant?.models ?? [];
  if (grant === undefined || model === undefined) {
    throw new AppError("invalid", 'The field "llm.models": opencode wants to be told which model to use.');
  }
  const provider = grant.dialect === "anthropic" ? "anthropic" : "cofferdam";
  const models = Object.fromEntries((grant.models ?? []).map((name) => [name, { name }]));
  const config = {
    autoupdate: false,
    share: "disabled",
    enabled_providers: [provider],
    // For titles and the like, where it would take one of its own.
    small_model: `${provider}/${model}`,
    // The sandbox is what holds it.
    permission: { "*": "allow" },
    provider: {
      [provider]:
        grant.dialect === "anthropic"
          ? { options: { baseURL: urls.openai, apiKey: "{env:ANTHROPIC_API_KEY}" }, models }
          : {
              npm: "@ai-sdk/openai-compatible",
              name: "Cofferdam",
              options: { baseURL: urls.openai, apiKey: "{env:OPENAI_API_KEY}" },
              models,
            },
    },
  };
  return {
    argv: ["opencode", "run", "--model", `${provider}/${model}`, "--", prompt],
    env: {
      NO_COLOR: "1",
      OPENCODE_CONFIG_CONTENT: JSON.stringify(config),
      // What it would fetch at a start.
      OPENCODE_DISABLE_AUTOUPDATE: "1",
      OPENCODE_DISABLE_DEFAULT_PLUGINS: "1",
      OPENCODE_DISABLE_LSP_DOWNLOAD: "1",
      OPENCODE_DISABLE_MODELS_FETCH: "1",
    },
  };
};
