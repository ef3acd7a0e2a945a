import type { RunGrants } from "../grants.ts";
import type { Variables } from "../environment.ts";

/** What an agent is started with. */
export interface AgentStart {
  readonly prompt: string;
  readonly llm: RunGrants["llm"];
  /** The gateway's, as this run reaches it: http://HOST:PORT, and the same with /v1. */
  readonly urls: { readonly base: string; readonly openai: string };
}

/** How one agent of the run's image is started with a prompt. Throws AppError `invalid` for grants that it can't use. */
export type Adapter = (start: AgentStart) => {
  readonly argv: readonly string[];
  /** Besides the run's own. */
  readonly env: Variables;
};
