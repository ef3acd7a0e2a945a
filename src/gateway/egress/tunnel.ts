import type { Grant } from "../grant.ts";
import type { Counters } from "./counters.ts";
import type { Connection } from "./dial.ts";
import { readHello } from "./hello.ts";
import type { Space } from "../space.ts";
import { createPipe, type End } from "./pipe.ts";
import { createWatch, type Step } from "./watch.ts";

export interface TunnelParts {
  readonly client: End;
  readonly server: Connection;
  readonly host: string;
  readonly port: number;
  readonly grant: Pick<Grant, "run" | "journal" | "deny">;
  readonly counters: Counters;
  /** For what one side does not take yet. */
  readonly space: Space;
  /** There is no more of it: both sockets are to be closed. */
  readonly onOver: () => void;
}

export interface Tunnel {
  data(chunk: Buffer): void;
  drain(): void;
  ended(): void;
  closed(): void;
  /** Ends it, and makes its record. */
  cut(): void;
}

const HELLO_MS = 30_000;
/** A long connection is told in parts, so that little is lost when the gateway is killed. */
const TELL_MS = 30_000;
/** A fatal alert, unrecognized_name: the one way to say why once TLS has begun. */
const UNRECOGNIZED_NAME = Buffer.from("15030300020270", "hex");

/** A run's connection with a host: TLS for that host's name and nothing else, carried as it is, and counted. */
export function createTunnel(parts: TunnelParts): Tunnel {
  const { client, server, host, port, grant, counters, space, onOver } = parts;
  const [up, down] = [space.share(grant.run), space.share(grant.run)];
  const toServer = createPipe(client, server, (bytes) => up.resize(bytes));
  const toClient = createPipe(server, client, (bytes) => down.resize(bytes));
  const watch = createWatch(judge);
  const carried = { sent: 0, received: 0, connections: 1, since: performance.now() };
  const closed = { client: false, server: false };
  /** What the client has sent, until its ClientHello is whole; then null. */
  let greeting: Buffer | null = Buffer.alloc(0);
  let isOver = false;
  const greet = setTimeout(() => refuse("no TLS came in time"), HELLO_MS);
  const telling = setInterval(() => {
    if (carried.sent + carried.received > 0) tell();
  }, TELL_MS);
  counters.opened();

  server.events.data = (chunk) => {
    const next = watch.server(chunk);
    carry("received", chunk, toClient);
    take(next);
  };
  server.events.drain = () => {
    toServer.drain();
    settle();
  };
  server.events.ended = () => {
    toClient.end();
    settle();
  };
  server.events.closed = () => {
    closed.server = true;
    toClient.end();
    settle();
  };

  /** Why a ClientHello that is whole is not for this host; null when it is. */
  function judge(sent: Buffer): string | null {
    const hello = readHello(sent);
    if (hello.kind !== "hello") return "it does not begin with TLS";
    if (hello.encrypted) return "it hides a name from the proxy (encrypted ClientHello)";
    if (hello.name === null) return "its TLS names no host";
    return hello.name === host ? null : `its TLS is for ${hello.name.slice(0, 100)}`;
  }

  function greeted(chunk: Buffer): void {
    greeting = Buffer.concat([greeting ?? Buffer.alloc(0), chunk]);
    const hello = readHello(greeting);
    if (hello.kind === "incomplete") return;
    clearTimeout(greet);
    const why = judge(greeting);
    if (why !== null || hello.kind !== "hello") return refuse(why ?? "it does not begin with TLS");
    const [first, rest] = [greeting.subarray(0, hello.bytes), greeting.subarray(hello.bytes)];
    greeting = null;
    carry("sent", first, toServer);
    server.resume();
    if (rest.length > 0) take(watch.client(rest));
  }

  function take(step: Step): void {
    if (isOver) return;
    if ("refuse" in step) return refuse(step.refuse);
    carry("sent", step.pass, toServer);
    if (step.held === "now") client.pause();
    if (step.held === "no more") client.resume();
  }

  function carry(way: "sent" | "received", chunk: Buffer, pipe: ReturnType<typeof createPipe>): void {
    if (isOver || chunk.length === 0) return;
    if (!counters.carry(chunk.length)) {
      grant.deny({ lane: "egress", reason: "bytes", detail: `${host}:${port}` });
      return cut();
    }
    carried[way] += chunk.length;
    if (pipe.send(chunk)) return;
    grant.deny({ lane: "egress", reason: "memory", detail: `${host}:${port}: too much waits to be taken` });
    cut();
  }

  function tell(): void {
    const { sent, received, connections, since } = carried;
    const now = performance.now();
    const duration_ms = Math.round(now - since);
    const bytes = { bytes_sent: sent, bytes_received: received };
    counters.told(sent + received);
    grant.journal.append({ kind: "egress", host, port, connections, ...bytes, duration_ms });
    Object.assign(carried, { sent: 0, received: 0, connections: 0, since: now });
  }

  function refuse(why: string): void {
    if (isOver) return;
    grant.deny({ lane: "egress", reason: "sni", detail: `${host}: ${why}` });
    client.write(UNRECOGNIZED_NAME);
    cut();
  }

  function settle(): void {
    const [out, back] = [toServer.isDone(), toClient.isDone()];
    if ((out && back) || (closed.client && out) || (closed.server && back)) cut();
  }

  function cut(): void {
    if (isOver) return;
    isOver = true;
    clearTimeout(greet);
    clearInterval(telling);
    for (const share of [up, down]) share[Symbol.dispose]();
    tell();
    counters.closed();
    onOver();
  }

  return {
    data(chunk) {
      if (isOver) return;
      if (greeting === null) take(watch.client(chunk));
      else greeted(chunk);
    },
    drain() {
      toClient.drain();
      settle();
    },
    ended() {
      // It said nothing, and the server was not heard yet.
      if (greeting !== null) return cut();
      toServer.end();
      settle();
    },
    closed() {
      closed.client = true;
      toServer.end();
      settle();
    },
    cut,
  };
}
