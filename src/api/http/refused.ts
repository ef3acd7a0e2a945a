import type { Refusals } from "../../audit/refusals.ts";
import { sourceOf } from "../../net/source.ts";
import type { Refusal } from "./server.ts";

/** What the audit log is told of an answer that refused a request. */
export function recordRefusals(refusals: Pick<Refusals, "note">) {
  return ({ status, context }: Refusal): void => {
    const { id, address, keyId, workspaceId, route } = context;
    const source = address === null ? null : sourceOf(address).source;
    const reason = reasonOf({ status, context });
    refusals.note({ status, reason, address, source, keyId, workspaceId, route, requestId: id });
  };
}

function reasonOf({ status, context }: Refusal): string {
  if (status === 401) return "no valid key";
  if (status === 403) return "not allowed";
  if (context.rate?.taken.allowed !== false) return "busy";
  return context.rate.name === "failures"
    ? "too many without a valid key"
    : `rate of the ${context.rate.name}`;
}
