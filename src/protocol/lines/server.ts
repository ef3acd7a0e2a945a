import { chmodSync, chownSync, rmSync } from "node:fs";
import type { Log } from "../../log.ts";
import { peerCredentials } from "../../kernel/peer.ts";

/** Requests being worked on at once, of all clients: past it, a client is told to come back. */
const MAX_IN_FLIGHT = 512;
const MAX_CLIENTS = 32;

export interface LineServerOptions {
  readonly path: string;
  /**
   * The socket's group, 0660, where this is root; null where it can't give files away: then only its directory and the
   * uids keep others out.
   */
  readonly gid: number | null;
  /** Of a request, and of an answer. A client that leaves two answers' worth unread is cut off. */
  readonly maxLineBytes: number;
  readonly maxAnswerBytes: number;
  readonly allowedUids: ReadonlySet<number>;
  /** The answer to one line; must not reject. `busy`: too much is in flight, so it must refuse. */
  readonly answer: (line: string, busy: boolean) => Promise<string>;
  readonly onClient: (uid: number) => void;
  readonly log: Log;
}

interface Client {
  received: Buffer;
  /** Put together only when the socket can take them: a client that does not read would have them copied for each answer. */
  unsent: Buffer[];
  unsentBytes: number;
}

type Socket = Bun.Socket<Client>;

/** A unix socket for newline-framed requests from peers whose uid is allowed. */
export function listenForLines(options: LineServerOptions) {
  const { path, gid, maxLineBytes, maxAnswerBytes, allowedUids, answer, onClient, log } = options;
  const clients = new Set<Socket>();
  let inFlight = 0;

  function send(socket: Socket, text: string): void {
    const { data } = socket;
    const answer = Buffer.from(`${text}\n`);
    data.unsent.push(answer);
    data.unsentBytes += answer.length;
    // With others before it, it waits for the drain like them.
    if (data.unsent.length === 1) flush(socket);
    if (data.unsentBytes > 2 * maxAnswerBytes) {
      log.warn("a client does not read its answers; it is cut off");
      socket.terminate();
    }
  }

  function flush(socket: Socket): void {
    const { data } = socket;
    if (data.unsent.length === 0) return;
    const all = Buffer.concat(data.unsent);
    const rest = all.subarray(Math.max(0, socket.write(all)));
    data.unsent = rest.length === 0 ? [] : [rest];
    data.unsentBytes = rest.length;
  }

  async function take(socket: Socket, line: string): Promise<void> {
    const busy = inFlight >= MAX_IN_FLIGHT;
    inFlight += 1;
    try {
      const text = await answer(line, busy);
      if (clients.has(socket)) send(socket, text);
    } finally {
      inFlight -= 1;
    }
  }

  function receive(socket: Socket, chunk: Buffer): void {
    const { data } = socket;
    data.received = data.received.length === 0 ? Buffer.from(chunk) : Buffer.concat([data.received, chunk]);
    for (;;) {
      const end = data.received.indexOf(NEWLINE);
      if (end > maxLineBytes || (end === -1 && data.received.length > maxLineBytes)) {
        log.warn("a client sent a line that is too long; it is cut off", { limit: maxLineBytes });
        socket.terminate();
        return;
      }
      if (end === -1) return;
      const line = data.received.toString("utf8", 0, end);
      data.received = data.received.subarray(end + 1);
      take(socket, line).catch((error: unknown) => log.error("a request was not answered", { error }));
    }
  }

  rmSync(path, { force: true });
  // Only its maker can connect until the owner and the mode are set.
  const umask = process.umask(0o177);
  const listener = (() => {
    try {
      return Bun.listen<Client>({
        unix: path,
        socket: {
          open(socket) {
            const { uid } = peerCredentials(fdOf(socket));
            if (!allowedUids.has(uid) || clients.size >= MAX_CLIENTS) {
              log.warn("a client is refused", { uid, clients: clients.size });
              socket.terminate();
              return;
            }
            socket.data = { received: Buffer.alloc(0), unsent: [], unsentBytes: 0 };
            clients.add(socket);
            onClient(uid);
          },
          data(socket, chunk) {
            // A refused peer may have sent before it was cut off.
            if (clients.has(socket)) receive(socket, chunk);
          },
          drain(socket) {
            if (clients.has(socket)) flush(socket);
          },
          close(socket) {
            clients.delete(socket);
          },
          error(socket, error) {
            log.warn("a client's connection failed", { error: error.message });
            socket.terminate();
          },
        },
      });
    } finally {
      process.umask(umask);
    }
  })();
  if (gid !== null) chownSync(path, 0, gid);
  chmodSync(path, gid === null ? 0o666 : 0o660);

  return {
    clients: () => clients.size,
    /** Takes no new client. Those that are connected still get the answers that they wait for. */
    close(): void {
      listener.stop();
      rmSync(path, { force: true });
    },
    drop(): void {
      for (const socket of clients) socket.end();
    },
  };
}

const NEWLINE = 0x0a;

function fdOf(socket: Socket): number {
  const { fd } = socket as Socket & { readonly fd?: number };
  if (fd === undefined) throw new Error("the socket shows no descriptor, so its peer can't be checked");
  return fd;
}
