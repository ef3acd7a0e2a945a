import { grantFor, type Adapter } from "./adapter.ts";

/** OpenAI's Codex, with the gateway as a provider of its own: the built-in one can't be led elsewhere by its environment alone. */
export const codex: Adapter = ({ prompt, llm, urls }) => {
  const { models, provider_tools: providerTools } = grantFor("codex", "openai", llm);
  const [model] = models ?? [];
  const settings = [
    'model_provider="cofferdam"',
    `model_providers.cofferdam={name="Cofferdam",base_url="${urls.openai}",env_key="OPENAI_API_KEY",wire_api="responses"}`,
    // Else each request has the provider's own search among its tools, and the gateway refuses all of it.
    ...(providerTools ? [] : ['web_search="disabled"']),
  ];
  return {
    argv: [
      "codex",
      "exec",
      "--skip-git-repo-check",
      // The sandbox is what holds it.
      "--dangerously-bypass-approvals-and-sandbox",
      ...settings.flatMap((setting) => ["-c", setting]),
      ...(model === undefined ? [] : ["--model", model]),
      "--",
      prompt,
    ],
    env: {},
  };
};
