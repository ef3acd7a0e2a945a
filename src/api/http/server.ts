import { rmSync } from "node:fs";
import { isLoopback, type Listening } from "../../config/listen.ts";
import { AppError } from "../../errors.ts";
import { clearSocketPath } from "../../kernel/socket-path.ts";
import type { Log } from "../../log.ts";
import { canonicalAddress, networksOf } from "../../net/networks.ts";
import type { Pair } from "../../tls/pair.ts";
import { refusedPath } from "../../volumes/path.ts";
import type { Answered } from "./access-log.ts";
import type { Contexts, RequestContext } from "./context.ts";
import { errorResponse, unforeseen } from "./errors.ts";
import { isHost, originOf } from "./forwarded.ts";
import { addHeaders } from "./headers.ts";
import type { Limits } from "./limits.ts";
import { bind, openListener, type BunServer, type Generation, type Handlers } from "./listener.ts";
import { startCrowd } from "../../net/crowd.ts";
import { fileRouteTable, isFolded } from "./rawpath.ts";

export interface App {
  fetch(request: Request): Response | Promise<Response>;
}

export interface Refusal {
  readonly status: 401 | 403 | 429;
  readonly context: RequestContext;
}

export interface ServerParts {
  /** The app of the TCP listener, and that of the admin socket. */
  readonly app: App;
  readonly adminApp: App;
  readonly listening: Listening;
  /** The TCP listener's certificate and key; null without TLS. */
  readonly pair: Pair | null;
  readonly adminSocket: string;
  /** How long a TCP connection may do nothing, in seconds; see IDLE_S. */
  readonly idleS?: number;
  readonly limits: Pick<Limits, "admit">;
  readonly contexts: Contexts;
  /** Told of each request that was refused with 401, 403 or 429. */
  readonly onRefused?: (refusal: Refusal) => void;
  /** Told of each answer; of a long one, as it begins. */
  readonly onAnswered?: Answered;
  readonly log: Log;
}

/** Bun answers what is larger than its own limit with a bare 413; ours come with a sentence, so its is out of reach. */
const NO_LIMIT = Number.MAX_SAFE_INTEGER;
/**
 * A connection on which no request is being worked on is closed after this: between two requests, while the next one's
 * head is on its way however often a byte of it comes, and while an answer is not taken. A body that is still arriving
 * then must have come at 16 KiB/s. (A connection's first head has about 10 s; that is Bun's own.)
 */
const IDLE_S = 60;
const HTTPS = "https://";
/** Where Elysia begins to look for an https: URL's path; see src/api/http/app.ts. */
const ELYSIA_BEGINS = 11;
const POLL_MS = 20;

/** One of the two ways in. */
interface Door {
  readonly app: App;
  /** Who comes, by what is known of the connection and the proxies. */
  from(request: Request, server: BunServer): Pick<RequestContext, "address" | "secure" | "host">;
  /** Throws for who may not use it. */
  admit(request: Request, server: BunServer, context: RequestContext): void;
  readonly idleS: number;
}

/** Opens both listeners. `stop` refuses new calls and waits for those in flight. */
export function startServer(parts: ServerParts) {
  const { contexts, log, listening, idleS = IDLE_S } = parts;
  const lifecycle = { draining: false };
  const proxies = networksOf(listening.proxies);
  const encrypted = parts.pair !== null;
  const crowd = startCrowd({ log });

  async function finish(
    request: Request,
    server: BunServer,
    door: Door,
    generation: Generation,
    work: () => Response | Promise<Response>,
  ): Promise<Response> {
    const context = contexts.begin(request, door.from(request, server));
    let response: Response;
    // Silence is the work's own matter. With a body, Bun waits as long as it should, and lifts that when all is there.
    const isLifted = context.address !== null && !hasBody(request);
    if (isLifted) server.timeout(request, 0);
    try {
      if (lifecycle.draining) {
        throw new AppError("unavailable", "The appliance is stopping; try again soon.", { retryAfterS: 5 });
      }
      door.admit(request, server, context);
      checkHead(request.headers, context);
      response = await work();
    } catch (error) {
      if (!(error instanceof AppError)) log.error("request failed", { request_id: context.id, cause: error });
      response = errorResponse(error instanceof AppError ? error : unforeseen(context.id));
    }
    // It would hold for the connection's later requests too.
    if (isLifted && !context.silent) server.timeout(request, idleS);
    addHeaders(response, context);
    const { status } = response;
    if (status === 401 || status === 403 || status === 429) parts.onRefused?.({ status, context });
    // What follows a CONNECT is no request to Bun, whatever the answer to it was.
    if (lifecycle.draining || generation.retired || request.method === "CONNECT" || context.silent)
      response.headers.set("connection", "close");
    parts.onAnswered?.(context, request.method, status);
    return response;
  }

  function handlers(door: Door, generation: Generation): Handlers {
    const accept = (request: Request, server: BunServer) =>
      finish(request, server, door, generation, () => door.app.fetch(request));
    const refuse = (request: Request, server: BunServer) =>
      finish(request, server, door, generation, () => {
        throw refusedPath();
      });
    return {
      routes: fileRouteTable(accept, refuse),
      fetch: (request, server) => (isFolded(request.url) ? refuse(request, server) : accept(request, server)),
      maxRequestBodySize: NO_LIMIT,
      idleTimeout: door.idleS,
      development: false,
    };
  }

  const network: Door = {
    app: parts.app,
    from: (request, server) =>
      originOf({ peer: peerOf(request, server), encrypted, headers: request.headers }, proxies),
    admit(request, server, context) {
      parts.limits.admit(context, request.url);
      if (encrypted && request.url.indexOf("/", HTTPS.length) < ELYSIA_BEGINS) throw shortHost();
      if (listening.loopback || encrypted) return;
      const peer = canonicalAddress(peerOf(request, server)) ?? "";
      if (!isLoopback(peer) && !proxies.has(peer)) throw inTheClear();
    },
    idleS,
  };
  const operator: Door = {
    app: parts.adminApp,
    from: ({ headers }) => ({ address: null, secure: false, host: headers.get("host") ?? "" }),
    admit: (request, _server, context) => parts.limits.admit(context, request.url),
    idleS: 0,
  };

  const tcp = openListener({
    endpoint: listening,
    pair: parts.pair,
    handlers: (generation) => handlers(network, generation),
    idleMs: (idleS + 1) * 1000,
  });
  const admin = bind(`the socket ${parts.adminSocket}`, () =>
    serveUnix(parts.adminSocket, handlers(operator, { retired: false })),
  );

  return {
    /** The port that was taken, which is the free one when 0 was asked for. */
    port: tcp.port,
    /** A new certificate and key, for connections from then on. */
    replacePair: tcp.replace,
    async stop(patienceMs: number): Promise<void> {
      lifecycle.draining = true;
      crowd.stop();
      const deadline = Date.now() + patienceMs;
      while (tcp.pendingRequests() + admin.pendingRequests > 0 && Date.now() < deadline)
        await Bun.sleep(POLL_MS);
      await Promise.all([tcp.stop(), admin.stop(true)]);
      rmSync(parts.adminSocket, { force: true });
    },
  };
}

function peerOf(request: Request, server: BunServer): string {
  return server.requestIP(request)?.address ?? "";
}

/** 0660: root, and the group that api's user shares with the operators. */
function serveUnix(path: string, handlers: Handlers): BunServer {
  clearSocketPath(path);
  const before = process.umask(0o117);
  try {
    // The types know no idleTimeout here; Bun does.
    const options: object = { ...handlers, unix: path };
    return Bun.serve(options as Bun.Serve.Options<undefined>);
  } finally {
    process.umask(before);
  }
}

function shortHost(): AppError {
  return new AppError(
    "bad_input",
    "Call the appliance by a name of at least three characters, or by its address.",
  );
}

function inTheClear(): AppError {
  return new AppError(
    "forbidden",
    "This address is for the proxy in front of it. What you sent came in the clear: revoke the key that was in it, " +
      "and use the https address.",
  );
}

function hasBody(request: Request): boolean {
  return (request.headers.get("content-length") ?? "0") !== "0" || request.headers.has("transfer-encoding");
}

/**
 * What Bun lets through. A Host that is none makes its request.url something that is no URL, or one with another path;
 * two of them it joins with a comma, as it does with a Content-Length that is said twice.
 */
function checkHead(headers: Headers, { host }: Pick<RequestContext, "host">): void {
  if (!isHost(headers.get("host") ?? "") || !isHost(host)) {
    throw new AppError("bad_input", "Send one Host header with the appliance's name or address.");
  }
  if (!/^\d{1,15}$/.test(headers.get("content-length") ?? "0")) {
    throw new AppError("bad_input", "Send one Content-Length header, with the number of bytes of the body.");
  }
}
