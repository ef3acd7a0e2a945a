import { isTokenAmong, tokenOf } from "../caller.ts";
import type { Grant } from "../grant.ts";
import { hostName, isAllowed } from "./allow.ts";
import type { Counters } from "./counters.ts";
import type { Connect } from "./head.ts";

export type Decision =
  | { readonly allowed: true; readonly host: string; readonly port: number }
  /** `reason` is the denial's; null for what is none. */
  | {
      readonly allowed: false;
      readonly status: number;
      readonly reason: string | null;
      readonly why: string;
    };

/** Whether a run may have the connection that it asks for, as far as that can be said before its name is looked up. */
export function decide(asked: Connect, from: string, grant: Grant, counters: Counters): Decision {
  const { peer, token_sha256, egress } = grant.spec();
  const token = tokenOf(asked.authorization);
  if (from !== peer) return refusal(407, "peer", "Come from this run, with its token.");
  // Without one it is no try at anything: git and others ask so first, and show it when they are told to.
  if (asked.authorization === null) return refusal(407, null, "Show this run's token.");
  if (token === null || !isTokenAmong([token], token_sha256)) {
    return refusal(407, "token", "Show this run's token.");
  }
  if (grant.signal.aborted) return refusal(403, null, "This run is over.");
  if (egress === null || egress.allow.length === 0) {
    return refusal(403, "not granted", 'This run reaches no host: it was started without "egress.allow".');
  }
  const host = hostName(asked.host);
  if (host === null || !isAllowed(egress.allow, host, asked.port)) {
    const wanted = `${asked.host.slice(0, 253)}:${asked.port}`;
    return refusal(403, "host", `${wanted} is not among the hosts that this run may reach (egress.allow).`);
  }
  if (counters.isSpent()) return refusal(403, "bytes", "This run has carried all the bytes that it may.");
  if (counters.open() >= egress.max_connections) {
    return refusal(429, "connections", `This run has ${counters.open()} connections open, the most it may.`);
  }
  return { allowed: true, host, port: asked.port };
}

function refusal(status: number, reason: string | null, why: string): Decision {
  return { allowed: false, status, reason, why };
}

const PHRASES: Readonly<Record<number, string>> = {
  400: "Bad Request",
  403: "Forbidden",
  405: "Method Not Allowed",
  407: "Proxy Authentication Required",
  408: "Request Timeout",
  429: "Too Many Requests",
  431: "Request Header Fields Too Large",
  502: "Bad Gateway",
};

/** An answer that says why, in its first line too: that is all that many clients show. */
export function answerOf(status: number, why: string): string {
  const text = `${why}\n`;
  // Of one line, and of characters that any client reads.
  const phrase = why.replaceAll(/[^ -~]/g, "?").slice(0, 300);
  return [
    `HTTP/1.1 ${status} ${PHRASES[status] ?? "Refused"}: ${phrase}`,
    "Content-Type: text/plain; charset=utf-8",
    `Content-Length: ${Buffer.byteLength(text)}`,
    ...(status === 407 ? ['Proxy-Authenticate: Basic realm="cofferdam"'] : []),
    "Connection: close",
    "",
    text,
  ].join("\r\n");
}
