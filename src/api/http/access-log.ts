import { withoutSecrets } from "../../log.ts";
import type { RequestContext } from "./context.ts";

/** Told of each answer as it begins; what is still to be streamed is not waited for. */
export type Answered = (context: RequestContext, method: string, status: number) => void;

/** Asked for every few seconds by machines: the log would hold little else. */
const QUIET: ReadonlySet<string | null> = new Set(["/healthz", "/readyz", "/metrics"]);

/**
 * One line for each request, with the route's pattern and never the path or the query. Put together by hand, since it is
 * a good part of what a small call costs; nothing in it can hold what JSON would escape.
 */
export function createAccessLog(role: string, write: (line: string, urgent: boolean) => void): Answered {
  const stamp = { at: 0, text: "" };

  return (context, method, status) => {
    if (QUIET.has(context.route)) return;
    const at = Date.now();
    if (at !== stamp.at) Object.assign(stamp, { at, text: new Date(at).toISOString() });
    const { id, route, workspaceId, namespace, keyId, address, startedAt } = context;
    const ms = Math.round((performance.now() - startedAt) * 100) / 100;
    write(
      `{"time":"${stamp.text}","level":"info","role":"${role}","message":"request","request_id":"${id}",` +
        `"route":${quoted(route)},"method":"${method}","status":${status},"duration_ms":${ms},` +
        `"workspace":${quoted(workspaceId)},"namespace":${quoted(namespace === null ? null : withoutSecrets(namespace))},` +
        `"key":${quoted(keyId)},"address":${quoted(address)}}\n`,
      false,
    );
  };
}

function quoted(text: string | null): string {
  return text === null ? "null" : `"${text}"`;
}
