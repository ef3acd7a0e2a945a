import { AppError } from "../../errors.ts";
import type { Vetting } from "../../net/target.ts";
import type { Log } from "../../log.ts";
import type { Grant } from "../grant.ts";
import { createSpace, type Space, type SpaceLimits } from "../space.ts";
import { createCounters, type Counters } from "./counters.ts";
import { dial, endOf } from "./dial.ts";
import { readHead } from "./head.ts";
import type { End } from "./pipe.ts";
import { answerOf, decide } from "./request.ts";
import { createTunnel, type Tunnel } from "./tunnel.ts";

export interface EgressParts {
  readonly vetting: Vetting;
  readonly log: Log;
  /** For what one side of a connection does not take yet. */
  readonly waiting?: SpaceLimits;
}

export interface Proxy {
  /** Connections with hosts. */
  tunnels(): number;
  stop(): void;
}

export interface Egress {
  listen(grant: Grant, port: number): Proxy;
}

/** Connections beyond those with hosts: they ask, or are being refused. */
const ASKING = 64;
const HEAD_MS = 10_000;
const MIB = 1024 * 1024;
/** One connection has up to 512 KiB, as much as is read at once, and most have nothing. All of a run's fit. */
const WAITING: SpaceLimits = { all: 256 * MIB, ofRun: 64 * MIB, sure: 4 * MIB };

interface Visit {
  data(chunk: Buffer): void;
  drain(): void;
  ended(): void;
  closed(): void;
  cut(): void;
}

interface VisitParts {
  readonly client: End & { terminate(): void; close(): void };
  readonly from: string;
  readonly grant: Grant;
  readonly counters: Counters;
  readonly vetting: Vetting;
  readonly space: Space;
  readonly log: Log;
}

/** The web proxy of each run: CONNECT to the hosts of its grant, and nothing else. */
export function createEgress({ vetting, log, waiting = WAITING }: EgressParts): Egress {
  const space = createSpace(waiting);
  return {
    listen(grant, port) {
      const counters = createCounters(grant);
      const visits = new Set<Visit>();
      const listener = Bun.listen<{ visit: Visit | null }>({
        hostname: grant.spec().host,
        port,
        allowHalfOpen: true,
        socket: {
          open(socket) {
            socket.data = { visit: null };
            const most = (grant.spec().egress?.max_connections ?? 0) + ASKING;
            if (visits.size >= most) return socket.terminate();
            const client = Object.assign(endOf(socket), { close: () => socket.end() });
            const visit = receive({
              client,
              from: socket.remoteAddress,
              grant,
              counters,
              vetting,
              space,
              log,
            });
            socket.data.visit = visit;
            visits.add(visit);
          },
          data: (socket, chunk) => socket.data.visit?.data(chunk),
          drain: (socket) => socket.data.visit?.drain(),
          end: (socket) => socket.data.visit?.ended(),
          close(socket) {
            const { visit } = socket.data;
            if (visit === null) return;
            visits.delete(visit);
            visit.closed();
          },
          error: (socket) => socket.terminate(),
        },
      });
      const cutAll = () => {
        for (const visit of visits) visit.cut();
      };
      grant.signal.addEventListener("abort", cutAll);
      return {
        tunnels: () => counters.open(),
        stop() {
          grant.signal.removeEventListener("abort", cutAll);
          cutAll();
          listener.stop(true);
        },
      };
    },
  };
}

/** Anyone's connection to the web proxy, from its first byte to its last. */
function receive({ client, from, grant, counters, vetting, space, log }: VisitParts): Visit {
  let received: Buffer = Buffer.alloc(0);
  let state: "asking" | "dialling" | "over" | Tunnel = "asking";
  const timer = setTimeout(() => refuse(408, "No request came in time."), HEAD_MS);

  function ask(chunk: Buffer): void {
    received = Buffer.concat([received, chunk]);
    const head = readHead(received);
    if (head.kind === "incomplete") return;
    clearTimeout(timer);
    if (head.kind === "other") return refuse(head.status, head.why);
    const decision = decide(head, from, grant, counters);
    if (!decision.allowed) {
      const detail = `${head.host.slice(0, 253)}:${head.port}${decision.reason === "peer" ? ` from ${from}` : ""}`;
      if (decision.reason !== null) grant.deny({ lane: "egress", reason: decision.reason, detail });
      return refuse(decision.status, decision.why);
    }
    // Until there is somebody to send it to.
    client.pause();
    state = "dialling";
    received = Buffer.from(head.rest);
    counters.opened();
    open(decision.host, decision.port)
      .catch((error: unknown) => {
        if (!(error instanceof AppError)) throw error;
        const isDenied = error.code === "invalid";
        if (isDenied) grant.deny({ lane: "egress", reason: "address", detail: error.message });
        refuse(isDenied ? 403 : 502, error.message);
      })
      .catch((error: unknown) => {
        log.error("a connection of the web proxy failed", { run: grant.run, error });
        refuse(502, "The proxy failed to connect.");
      })
      .finally(() => counters.closed());
  }

  async function open(host: string, port: number): Promise<void> {
    const server = await dial(host, port, vetting);
    // The client went meanwhile.
    if (state !== "dialling") return server.terminate();
    client.write(Buffer.from("HTTP/1.1 200 Connection established\r\n\r\n"));
    const onOver = () => {
      state = "over";
      server.terminate();
      client.close();
    };
    const tunnel = createTunnel({ client, server, host, port, grant, counters, space, onOver });
    state = tunnel;
    if (received.length > 0) tunnel.data(received);
    client.resume();
  }

  function refuse(status: number, why: string): void {
    if (state !== "asking" && state !== "dialling") return;
    state = "over";
    clearTimeout(timer);
    client.write(Buffer.from(answerOf(status, why)));
    client.close();
  }

  function leave(): void {
    clearTimeout(timer);
    if (typeof state !== "string") return state.cut();
    state = "over";
  }

  return {
    data(chunk) {
      if (state === "asking") ask(chunk);
      else if (typeof state !== "string") state.data(chunk);
      // It is paused, but what had been read already may still come.
      else if (state === "dialling") received = Buffer.concat([received, chunk]);
    },
    drain() {
      if (typeof state !== "string") state.drain();
    },
    ended() {
      if (typeof state !== "string") return state.ended();
      leave();
      client.close();
    },
    closed() {
      if (typeof state !== "string") return state.closed();
      leave();
    },
    cut() {
      leave();
      client.terminate();
    },
  };
}
