import { chmodSync, rmSync } from "node:fs";
import { timingSafeEqual } from "node:crypto";
import type { Socket } from "bun";
import { AppError } from "../errors.ts";
import type { SandboxId } from "../ids.ts";
import { clearSocketPath } from "../kernel/socket-path.ts";
import type { Log } from "../log.ts";
import { sandboxHello } from "../protocol/sandboxd.ts";
import { Outbox } from "../protocol/lines/outbox.ts";

/** One sandbox's stdio, as its session uses it. */
export interface SandboxConnection {
  /** Takes the connection over. What has arrived already is handed on first; `close` is called exactly once. */
  attach(receiver: Receiver): void;
  send(bytes: Uint8Array): void;
  /** Ends the sandbox too: its init exits when its stdin ends. */
  close(): void;
}

interface Receiver {
  data(chunk: Uint8Array): void;
  close(): void;
}

export interface Connections {
  /** The connection of this sandbox, waiting a little for it to arrive. Each can be claimed once. */
  claim(sandbox: SandboxId, nonce: string): Promise<SandboxConnection>;
  readonly unclaimed: number;
  close(): void;
}

interface Options {
  readonly path: string;
  /** Only a peer with this uid is listened to. */
  readonly trustedUid: number;
  readonly peerUid: (fd: number) => number;
  readonly log: Log;
  /** Waiting connections, known and not yet known. The pool has at most 64. */
  readonly maxUnclaimed?: number;
  readonly helloTimeoutMs?: number;
  readonly claimTimeoutMs?: number;
}

/** {"sandbox":"sb-…","nonce":"…64…"} and a newline, with room to spare. */
const MAX_HELLO_BYTES = 256;
/** Before it is claimed, an init says READY and nothing else. */
const MAX_EARLY_BYTES = 64;
const NEWLINE = 10;

type Phase =
  | { readonly name: "hello"; heard: Uint8Array; readonly timer: Timer }
  | { readonly name: "waiting"; readonly sandbox: SandboxId; readonly nonce: string; early: Uint8Array }
  | { readonly name: "attached"; readonly receiver: Receiver }
  | { readonly name: "closed" };

interface Arrival {
  readonly socket: Socket<Arrival>;
  readonly outbox: Outbox;
  phase: Phase;
}

/** Listens where sandboxes arrive, and keeps each until the answer of ensureSandbox tells whose it is. */
export function listenForSandboxes(options: Options): Connections {
  const { path, log, maxUnclaimed = 256, helloTimeoutMs = 2_000, claimTimeoutMs = 5_000 } = options;
  const waiting = new Map<SandboxId, Arrival>();
  const claims = new Map<SandboxId, (arrival: Arrival) => void>();
  let unknown = 0;

  function drop(arrival: Arrival, why: string): void {
    log.warn("a sandbox connection was refused", { why });
    arrival.socket.terminate();
    // terminate() reports the close later; the place must be free now.
    closed(arrival);
  }

  function closed(arrival: Arrival): void {
    const { phase } = arrival;
    arrival.phase = { name: "closed" };
    if (phase.name === "hello") {
      clearTimeout(phase.timer);
      unknown -= 1;
    } else if (phase.name === "waiting") {
      if (waiting.get(phase.sandbox) === arrival) waiting.delete(phase.sandbox);
    } else if (phase.name === "attached") {
      phase.receiver.close();
    }
  }

  function hear(arrival: Arrival, phase: Phase & { name: "hello" }, chunk: Uint8Array): void {
    const heard = Buffer.concat([phase.heard, chunk]);
    const end = heard.indexOf(NEWLINE);
    if (end === -1 ? heard.length > MAX_HELLO_BYTES : end > MAX_HELLO_BYTES) {
      return drop(arrival, "its first line is too long");
    }
    if (end === -1) {
      phase.heard = heard;
      return;
    }
    const hello = parseHello(heard.toString("utf8", 0, end));
    if (hello === undefined) return drop(arrival, "its first line is not a hello");
    if (waiting.has(hello.sandbox)) return drop(arrival, "another connection says it is this sandbox");
    const early = heard.subarray(end + 1);
    if (early.length > MAX_EARLY_BYTES) return drop(arrival, "it says too much before it is claimed");
    clearTimeout(phase.timer);
    unknown -= 1;
    arrival.phase = { name: "waiting", ...hello, early };
    waiting.set(hello.sandbox, arrival);
    claims.get(hello.sandbox)?.(arrival);
  }

  clearSocketPath(path);
  const listener = Bun.listen<Arrival | undefined>({
    unix: path,
    socket: {
      binaryType: "uint8array",
      open(socket) {
        const uid = options.peerUid(fdOf(socket));
        if (uid !== options.trustedUid || unknown + waiting.size >= maxUnclaimed) {
          log.warn("a sandbox connection was refused", { uid, unclaimed: unknown + waiting.size });
          socket.terminate();
          return;
        }
        unknown += 1;
        const timer = setTimeout(() => drop(arrival, "its first line did not come in time"), helloTimeoutMs);
        const arrival: Arrival = {
          socket: socket as Socket<Arrival>,
          outbox: new Outbox(socket),
          phase: { name: "hello", heard: new Uint8Array(0), timer },
        };
        socket.data = arrival;
      },
      data(socket, chunk) {
        const arrival = socket.data;
        if (arrival === undefined) return;
        const { phase } = arrival;
        if (phase.name === "attached") phase.receiver.data(chunk);
        else if (phase.name === "hello") hear(arrival, phase, chunk);
        else if (phase.name === "waiting") {
          if (phase.early.length + chunk.length > MAX_EARLY_BYTES) {
            drop(arrival, "it says too much before it is claimed");
          } else phase.early = Buffer.concat([phase.early, chunk]);
        }
      },
      drain: (socket) => socket.data?.outbox.drain(),
      close(socket) {
        if (socket.data !== undefined) closed(socket.data);
      },
      // Bun reports a throw from the handlers above here.
      error(socket, error) {
        log.error("a sandbox connection failed", { error: error.message });
        socket.terminate();
        if (socket.data !== undefined) closed(socket.data);
      },
    },
  });
  chmodSync(path, 0o600);

  function take(arrival: Arrival, nonce: string): SandboxConnection {
    const { phase } = arrival;
    if (phase.name !== "waiting" || !sameNonce(phase.nonce, nonce)) {
      drop(arrival, "its nonce is not the sandbox's");
      throw new AppError("internal", "A sandbox could not prove that it is the one that was asked for.");
    }
    waiting.delete(phase.sandbox);
    return {
      attach(receiver) {
        // It may have closed between the claim and now.
        if (arrival.phase.name !== "waiting") return receiver.close();
        arrival.phase = { name: "attached", receiver };
        if (phase.early.length > 0) receiver.data(phase.early);
      },
      send: (bytes) => arrival.outbox.send(bytes),
      close: () => {
        arrival.socket.terminate();
        closed(arrival);
      },
    };
  }

  return {
    async claim(sandbox, nonce) {
      let arrival = waiting.get(sandbox);
      if (arrival === undefined) {
        const arrived = Promise.withResolvers<Arrival>();
        claims.set(sandbox, arrived.resolve);
        const timer = setTimeout(
          () =>
            arrived.reject(
              new AppError("unavailable", "The sandbox did not come up in time.", { retryAfterS: 2 }),
            ),
          claimTimeoutMs,
        );
        try {
          arrival = await arrived.promise;
        } finally {
          clearTimeout(timer);
          claims.delete(sandbox);
        }
      }
      return take(arrival, nonce);
    },
    get unclaimed() {
      return unknown + waiting.size;
    },
    close() {
      listener.stop(true);
      rmSync(path, { force: true });
    },
  };
}

function parseHello(line: string): { sandbox: SandboxId; nonce: string } | undefined {
  try {
    return sandboxHello.parse(JSON.parse(line));
  } catch {
    return undefined;
  }
}

/** Both are 64 characters by their schemas; a differing length in bytes (not ASCII) is a difference too. */
function sameNonce(a: string, b: string): boolean {
  const [left, right] = [Buffer.from(a), Buffer.from(b)];
  return left.length === right.length && timingSafeEqual(left, right);
}

/** Bun's sockets have `fd`; its types don't say so. */
function fdOf(socket: object): number {
  return "fd" in socket && typeof socket.fd === "number" ? socket.fd : -1;
}
