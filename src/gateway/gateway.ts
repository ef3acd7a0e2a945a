import { rmSync } from "node:fs";
import type { Instance } from "../instance/instance.ts";
import { clearSocketPath } from "../kernel/socket-path.ts";
import type { Log } from "../log.ts";

export interface Gateway {
  /** Throws unless it answers. */
  check(): Promise<void>;
  stop(): Promise<void>;
}

const CHECK_TIMEOUT_MS = 5_000;

/**
 * The role that runs will reach models, git and the web through, and that holds their credentials. It has no runs yet,
 * and so answers to its health alone, on its unix socket.
 */
export function startGateway({ instance, log }: { instance: Instance; log: Log }): Gateway {
  const path = instance.sockets.gateway;
  clearSocketPath(path);
  const server = Bun.serve({
    unix: path,
    development: false,
    routes: { "/healthz": { GET: () => Response.json({ status: "ok" }) } },
    fetch: () => Response.json({ detail: "The gateway has nothing here." }, { status: 404 }),
    error(error) {
      log.error("request failed", { error });
      return Response.json({ detail: "The gateway failed to answer this." }, { status: 500 });
    },
  });
  return {
    async check() {
      const response = await fetch("http://gateway/healthz", {
        unix: path,
        signal: AbortSignal.timeout(CHECK_TIMEOUT_MS),
      });
      if (!response.ok) throw new Error(`the gateway's health is ${response.status}`);
    },
    async stop() {
      await server.stop();
      rmSync(path, { force: true });
    },
  };
}
