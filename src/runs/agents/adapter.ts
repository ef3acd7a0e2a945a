import { AppError } from "../../errors.ts";
import type { Dialect } from "../../protocol/gateway.ts";
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

/** The grant that an agent speaks by. */
export function grantFor(agent: string, dialect: Dialect, llm: RunGrants["llm"]): RunGrants["llm"][number] {
  const grant = llm.find((one) => one.dialect === dialect);
  if (grant !== undefined) return grant;
  throw new AppError(
    "invalid",
    `The field "llm": ${agent} wants a grant by a credential of kind ${dialect}.`,
  );
}
