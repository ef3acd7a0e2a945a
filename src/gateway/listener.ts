import { isTokenAmong, shownTokens } from "./caller.ts";
import type { Grant, Lane } from "./grant.ts";
import type { Log } from "../log.ts";

export interface Lanes {
  readonly llm: Lane;
  readonly git: Lane;
}

export interface ListenerParts {
  readonly grant: Grant;
  readonly port: number;
  readonly lanes: Lanes;
  readonly log: Log;
}

export interface Listener {
  /** Requests under way. */
  requests(): number;
  /** Ends all of them. */
  stop(): Promise<void>;
}

/** Lanes bound what they read; a push may be as large as the repository. */
const MAX_BODY_BYTES = 2 ** 40;

/**
 * Where a run finds its models and its git: at the host's end of its own network. Whoever comes from another address than
 * the run's, or without its token, is refused before a byte of the request's body is read.
 */
export function listenForRun({ grant, port, lanes, log }: ListenerParts): Listener {
  const server = Bun.serve({
    hostname: grant.spec().host,
    port,
    // Whoever answers may think for minutes; a run's end and the provider's own limits end what hangs.
    idleTimeout: 0,
    maxRequestBodySize: MAX_BODY_BYTES,
    development: false,
    async fetch(request, server) {
      // A Host header that is none makes a URL that is none.
      const pathname = URL.parse(request.url)?.pathname ?? "";
      const lane = pathname.startsWith("/v1/") ? "llm" : pathname.startsWith("/git/") ? "git" : null;
      const peer = server.requestIP(request)?.address ?? "nobody";
      const { spec, deny, signal, journal } = grant;
      const { peer: expected, token_sha256, llm, git } = spec();
      if (peer !== expected) {
        deny({ lane: lane ?? "network", reason: "peer", detail: `from ${peer}, which is not this run` });
        return unauthenticated(lane);
      }
      // Clients ask whether there is somebody, without a token.
      if (lane === null && pathname === "/") return new Response(null, { status: 200 });
      if (!isTokenAmong(shownTokens(request.headers), token_sha256)) {
        deny({
          lane: lane ?? "network",
          reason: "token",
          detail: `${request.method} without the run's token`,
        });
        return unauthenticated(lane);
      }
      if (signal.aborted) return refusal(lane, 403, "This run is over.");
      if (journal.full())
        return refusal(lane, 503, "This run's journal is full: nothing more is begun for it.");
      if (lane === null)
        return refusal(null, 404, "The gateway has /v1/… for models and /git/… for repositories.");
      if (lane === "llm" ? llm.length === 0 : git === null) {
        const what = lane === "llm" ? "a model" : "a repository";
        deny({ lane, reason: "not granted", detail: `${request.method} ${pathname}`.slice(0, 200) });
        return refusal(lane, 403, `This run may not reach ${what}: it was started without "${lane}".`);
      }
      return lanes[lane].handle(request, grant);
    },
    error(error) {
      log.error("a run's request failed", { run: grant.run, error });
      return refusal(null, 500, "The gateway failed to answer this.");
    },
  });
  return {
    requests: () => server.pendingRequests,
    stop: () => server.stop(true),
  };
}

function unauthenticated(lane: "llm" | "git" | null): Response {
  const response = refusal(lane, 401, "Show this run's token, from this run.");
  // Else Claude Code tries for 45 s more.
  response.headers.set("x-should-retry", "false");
  if (lane === "git") response.headers.set("www-authenticate", 'Basic realm="cofferdam"');
  // What else it sends is not read.
  response.headers.set("connection", "close");
  return response;
}

const KINDS: Readonly<Record<number, string>> = {
  401: "authentication_error",
  403: "permission_error",
  404: "not_found_error",
  503: "overloaded_error",
};

/** In a form that clients of either provider, and git, show to a person. */
function refusal(lane: "llm" | "git" | null, status: number, message: string): Response {
  if (lane === "git") return new Response(`${message}\n`, { status });
  const type = KINDS[status] ?? "api_error";
  return Response.json({ type: "error", error: { type, message, code: type, param: null } }, { status });
}
