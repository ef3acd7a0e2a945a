import { rmSync } from "node:fs";
import type { Server } from "bun";
import { loopbackAddress } from "../config/listen.ts";
import { AppError } from "../errors.ts";
import { clearSocketPath } from "../kernel/socket-path.ts";
import type { Log } from "../log.ts";
import { refusedPath } from "../volumes/path.ts";
import type { Contexts } from "./context.ts";
import { errorResponse, unforeseen } from "./errors.ts";
import { fileRouteTable, isFolded } from "./rawpath.ts";

export interface App {
  fetch(request: Request): Response | Promise<Response>;
}

export interface ServerParts {
  /** The app of the TCP listener, and that of the admin socket. */
  readonly app: App;
  readonly adminApp: App;
  /** HOST:PORT */
  readonly listen: string;
  readonly adminSocket: string;
  /** The longest that an answer may be silent, in seconds. */
  readonly silenceS: number;
  readonly contexts: Contexts;
  readonly log: Log;
}

/** Bun answers what is larger than its own limit with a bare 413; ours come with a sentence, so its is out of reach. */
const NO_LIMIT = Number.MAX_SAFE_INTEGER;
/** Bun's idle timeout is one byte. */
const MAX_IDLE_S = 255;
const POLL_MS = 20;

/** Opens both listeners. `stop` refuses new calls and waits for those in flight. */
export function startServer(parts: ServerParts) {
  const { contexts, log } = parts;
  const lifecycle = { draining: false };

  async function finish(
    request: Request,
    address: string | null,
    work: () => Response | Promise<Response>,
  ): Promise<Response> {
    const { id } = contexts.begin(request, { address, secure: false });
    let response: Response;
    try {
      response = await work();
    } catch (error) {
      if (!(error instanceof AppError)) log.error("request failed", { request_id: id, cause: error });
      response = errorResponse(error instanceof AppError ? error : unforeseen(id));
    }
    response.headers.set("x-request-id", id);
    if (lifecycle.draining) response.headers.set("connection", "close");
    return response;
  }

  function handlers(app: App) {
    const accept = (request: Request, server: Server<undefined>) =>
      finish(request, addressOf(request, server), () => {
        if (lifecycle.draining) {
          throw new AppError("unavailable", "The appliance is stopping; try again soon.", { retryAfterS: 5 });
        }
        checkHost(request);
        return app.fetch(request);
      });
    const refuse = (request: Request, server: Server<undefined>) =>
      finish(request, addressOf(request, server), () => {
        checkHost(request);
        throw refusedPath();
      });
    return {
      routes: fileRouteTable(accept, refuse),
      fetch: (request: Request, server: Server<undefined>) =>
        isFolded(request.url) ? refuse(request, server) : accept(request, server),
      maxRequestBodySize: NO_LIMIT,
      idleTimeout: parts.silenceS > MAX_IDLE_S ? 0 : parts.silenceS,
      development: false,
      // Without this, `development: false` lets a second process share the port, and calls with it.
      reusePort: false,
    };
  }

  const address = loopbackAddress(parts.listen);
  const tcp = bind(`the address ${parts.listen}`, () => Bun.serve({ ...handlers(parts.app), ...address }));
  const admin = bind(`the socket ${parts.adminSocket}`, () =>
    serveUnix(parts.adminSocket, handlers(parts.adminApp)),
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

/**
 * A Host that is none makes Bun's request.url something that is no URL, or one with another path; two of them it joins
 * with a comma.
 */
function checkHost(request: Request): void {
  if (!/^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?$/.test(request.headers.get("host") ?? "")) {
    throw new AppError("bad_input", "Send one Host header with the appliance's name or address.");
  }
}
