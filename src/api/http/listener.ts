import type { Server } from "bun";
import { hostAndPort, type Endpoint } from "../../config/listen.ts";
import { AppError } from "../../errors.ts";
import { listeningSockets, shareAddress, steerConnections, vacateListening } from "../../kernel/listening.ts";
import type { Pair } from "../../tls/pair.ts";

export type BunServer = Server<undefined>;
type Handle = (request: Request, server: BunServer) => Response | Promise<Response>;

/** What Bun.serve takes, less where it listens. */
export interface Handlers {
  readonly routes: Record<string, Handle>;
  readonly fetch: Handle;
  readonly maxRequestBodySize: number;
  readonly idleTimeout: number;
  readonly development: false;
}

/** One of the servers that follow each other at an address. */
export interface Generation {
  /** Another has taken its place: it should have its clients come anew. */
  retired: boolean;
}

export interface ListenerParts {
  readonly endpoint: Endpoint;
  readonly pair: Pair | null;
  readonly handlers: (generation: Generation) => Handlers;
  /** How long a connection may be on its way in. */
  readonly handoverMs?: number;
  /** How long a retired server's clients may keep an idle connection. */
  readonly idleMs: number;
}

export type Listener = ReturnType<typeof openListener>;

const HANDOVER_MS = 2_000;

/** What a browser of today and a Python of ten years ago both have; with TLS 1.3 there is no choice. */
const CIPHERS = ["ECDSA", "RSA"]
  .flatMap((key) =>
    ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"].map((c) => `ECDHE-${key}-${c}`),
  )
  .join(":");

/** A TCP listener whose certificate can be replaced while it answers. */
export function openListener(parts: ListenerParts) {
  const { endpoint, handlers, handoverMs = HANDOVER_MS, idleMs } = parts;
  const servers = new Set<BunServer>();
  const state = { current: open(endpoint.port, parts.pair, false), stopped: false };
  const port = state.current.server.port ?? endpoint.port;

  function open(port: number, pair: Pair | null, shared: boolean) {
    const before = listeningSockets();
    const generation = { retired: false };
    const server = bind(`the address ${hostAndPort(endpoint)}`, () =>
      Bun.serve({
        ...handlers(generation),
        hostname: endpoint.hostname,
        port,
        // Bun's least is TLS 1.2.
        ...(pair === null ? {} : { tls: { ...pair, ciphers: CIPHERS } }),
        // Must be said: else a second process could share the port, and calls with it.
        reusePort: shared,
      }),
    );
    servers.add(server);
    const fd = [...listeningSockets()].find((one) => !before.has(one));
    if (fd === undefined) throw new Error("the socket that listens was not found");
    return { server, generation, fd };
  }

  /**
   * Bun.serve keeps the certificate that it began with, so a second server takes over: the kernel gives it all new
   * connections, while the first ends what it began.
   */
  async function replace(pair: Pair): Promise<void> {
    const old = state.current;
    shareAddress(old.fd);
    const next = open(port, pair, true);
    try {
      // The old one is the first of the two: all before it have left.
      steerConnections(next.fd, 1);
    } catch (error) {
      await close(next.server);
      throw error;
    }
    state.current = next;
    old.generation.retired = true;
    await Bun.sleep(handoverMs);
    if (state.stopped) return;
    vacateListening(old.fd);
    // Until then idle connections are left to their clients, or a request could meet the end of its connection.
    const retire = setTimeout(() => void close(old.server), idleMs);
    retire.unref();
  }

  /** Calls in flight end first. */
  async function close(server: BunServer): Promise<void> {
    await server.stop();
    servers.delete(server);
  }

  const queue = { last: Promise.resolve() };

  return {
    port,

    /** For connections from now on. Resolves when no new one can meet the certificate before. */
    replace: (pair: Pair): Promise<void> => {
      const next = queue.last.then(() => (state.stopped ? undefined : replace(pair)));
      queue.last = next.catch(() => {});
      return next;
    },

    pendingRequests: () => [...servers].reduce((sum, { pendingRequests }) => sum + pendingRequests, 0),

    async stop(): Promise<void> {
      state.stopped = true;
      await Promise.all([...servers].map((server) => server.stop(true)));
    },
  };
}

/** `open`, whose errors say what could not be had. */
export function bind<T>(what: string, open: () => T): T {
  try {
    return open();
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new AppError("unavailable", `Cannot listen on ${what}: ${why}`, { cause: error });
  }
}
