import { grantFor, type Adapter } from "./adapter.ts";

/** Anthropic's Claude Code. It asks for a default model of its own, so that the first of those granted is named. */
export const claudeCode: Adapter = ({ prompt, llm }) => {
  const { models, provider_tools: providerTools } = grantFor("claude-code", "anthropic", llm);
  const [model] = models ?? [];
  return {
    argv: [
      "claude",
      "--print",
      // The sandbox is what holds it.
      "--permission-mode",
      "bypassPermissions",
      ...(model === undefined ? [] : ["--model", model]),
      // Anthropic would search, not the run; the gateway refuses it.
      ...(providerTools ? [] : ["--disallowedTools", "WebSearch"]),
      "--",
      prompt,
    ],
    // Updates, error reports and the like: five hosts that it can't reach, and would look up first.
    env: { CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1" },
  };
};
