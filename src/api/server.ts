import { rmSync } from "node:fs";
import type { Server } from "bun";
import { loopbackAddress } from "../config/listen.ts";
import { AppError } from "../errors.ts";
import { clearSocketPath } from "../kernel/socket-path.ts";
import type { Log } from "../log.ts";
import { refusedPath } from "../volumes/path.ts";
import type { Answered } from "./access-log.ts";
import type { Contexts, RequestContext } from "./context.ts";
import { errorResponse, unforeseen } from "./errors.ts";
import { addHeaders } from "./headers.ts";
import type { Limits } from "./limits.ts";
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
  /** HOST:PORT */
  readonly listen: string;
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
const POLL_MS = 20;

/** Opens both listeners. `stop` refuses new calls and waits for those in flight. */
export function startServer(parts: ServerParts) {
  const { contexts, log, idleS = IDLE_S } = parts;
  const lifecycle = { draining: false };

  async function finish(
    request: Request,
    server: Server<undefined>,
    work: (context: RequestContext) => Response | Promise<Response>,
  ): Promise<Response> {
    const context = contexts.begin(request, { address: addressOf(request, server), secure: false });
    let response: Response;
    // Silence is the work's own matter. With a body, Bun waits as long as it should, and lifts that when all is there.
    const isLifted = context.address !== null && !hasBody(request);
    if (isLifted) server.timeout(request, 0);
    try {
      response = await work(context);
    } catch (error) {
      if (!(error instanceof AppError)) log.error("request failed", { request_id: context.id, cause: error });
      response = errorResponse(error instanceof AppError ? error : unforeseen(context.id));
    }
    // It would hold for the connection's later requests too.
    if (isLifted) server.timeout(request, idleS);
    addHeaders(response, context);
    const { status } = response;
    if (status === 401 || status === 403 || status === 429) parts.onRefused?.({ status, context });
    // What follows a CONNECT is no request to Bun, whatever the answer to it was.
    if (lifecycle.draining || request.method === "CONNECT") response.headers.set("connection", "close");
    parts.onAnswered?.(context, request.method, status);
    return response;
  }

  function handlers(app: App, idleTimeout: number) {
    const accept = (request: Request, server: Server<undefined>) =>
      finish(request, server, (context) => {
        if (lifecycle.draining) {
          throw new AppError("unavailable", "The appliance is stopping; try again soon.", { retryAfterS: 5 });
        }
        parts.limits.admit(context, request.url);
        checkHead(request.headers);
        return app.fetch(request);
      });
    const refuse = (request: Request, server: Server<undefined>) =>
      finish(request, server, (context) => {
        parts.limits.admit(context, request.url);
        checkHead(request.headers);
        throw refusedPath();
      });
    return {
      routes: fileRouteTable(accept, refuse),
      fetch: (request: Request, server: Server<undefined>) =>
        isFolded(request.url) ? refuse(request, server) : accept(request, server),
      maxRequestBodySize: NO_LIMIT,
      idleTimeout,
      development: false,
      // Without this, `development: false` lets a second process share the port, and calls with it.
      reusePort: false,
    };
  }

  const address = loopbackAddress(parts.listen);
  const tcp = bind(`the address ${parts.listen}`, () =>
    Bun.serve({ ...handlers(parts.app, idleS), ...address }),
  );
  const admin = bind(`the socket ${parts.adminSocket}`, () =>
    serveUnix(parts.adminSocket, handlers(parts.adminApp, 0)),
  );

  return {
    /** The port that was taken, which is the free one when 0 was asked for. */
    port: tcp.port ?? address.port,
    hostname: address.hostname,
    async stop(patienceMs: number): Promise<void> {
      lifecycle.draining = true;
      const deadline = Date.now() + patienceMs;
      while (tcp.pendingRequests + admin.pendingRequests > 0 && Date.now() < deadline)
        await Bun.sleep(POLL_MS);
      await Promise.all([tcp.stop(true), admin.stop(true)]);
      rmSync(parts.adminSocket, { force: true });
    },
  };
}

/** null on the admin socket. */
function addressOf(request: Request, server: Server<undefined>): string | null {
  return server.requestIP(request)?.address ?? null;
}

/** 0660: root, and the group that api's user shares with the operators. */
function serveUnix(path: string, handlers: Omit<Bun.Serve.Options<undefined>, "unix">): Server<undefined> {
  clearSocketPath(path);
  const before = process.umask(0o117);
  try {
    return Bun.serve({ ...handlers, unix: path } as Bun.Serve.Options<undefined>);
  } finally {
    process.umask(before);
  }
}

function bind<T>(what: string, open: () => T): T {
  try {
    return open();
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new AppError("unavailable", `Cannot listen on ${what}: ${why}`, { cause: error });
  }
}

function hasBody(request: Request): boolean {
  return (request.headers.get("content-length") ?? "0") !== "0" || request.headers.has("transfer-encoding");
}

/**
 * What Bun lets through. A Host that is none makes its request.url something that is no URL, or one with another path;
 * two of them it joins with a comma, as it does with a Content-Length that is said twice.
 */
function checkHead(headers: Headers): void {
  if (!/^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?$/.test(headers.get("host") ?? "")) {
    throw new AppError("bad_input", "Send one Host header with the appliance's name or address.");
  }
  if (!/^\d{1,15}$/.test(headers.get("content-length") ?? "0")) {
    throw new AppError("bad_input", "Send one Content-Length header, with the number of bytes of the body.");
  }
}
