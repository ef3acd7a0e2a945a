import { AppError, codeOf } from "../../errors.ts";
import { vetHost, type Vetting } from "../../net/target.ts";
import type { End } from "./pipe.ts";

/** What a connection tells its owner; set once there is one. It is not read before. */
export interface Events {
  data: (chunk: Buffer) => void;
  drain: () => void;
  ended: () => void;
  closed: () => void;
}

export interface Connection extends End {
  readonly events: Events;
  terminate(): void;
}

const DIAL_MS = 10_000;
/** Addresses of one name that are tried. */
const MOST = 4;
const KEEP_ALIVE_MS = 60_000;

/**
 * Connects to a host that the policy lets pass: all its addresses are judged, and the very ones that were judged are
 * dialled, so that a name which leads elsewhere a moment later is of no use. Throws an AppError that says why not.
 */
export async function dial(host: string, port: number, vetting: Vetting): Promise<Connection> {
  const addresses = await vetHost(host, vetting, host);
  let why = "";
  for (const address of addresses.slice(0, MOST)) {
    try {
      return await connect(address, port);
    } catch (error) {
      why =
        error === LATE
          ? `it did not answer within ${DIAL_MS / 1000} s`
          : (codeOf(error) ?? "no reason given");
    }
  }
  throw new AppError("unavailable", `${host}:${port} could not be reached: ${why}.`);
}

const LATE = Symbol("late");

async function connect(hostname: string, port: number): Promise<Connection> {
  const events: Events = { data() {}, drain() {}, ended() {}, closed() {} };
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(LATE), DIAL_MS);
  const connecting = Bun.connect({
    hostname,
    port,
    allowHalfOpen: true,
    socket: {
      open(socket) {
        socket.pause();
      },
      data: (_, chunk) => events.data(chunk),
      drain: () => events.drain(),
      end: () => events.ended(),
      close: () => events.closed(),
      error: (socket) => socket.terminate(),
    },
  });
  try {
    const socket = await Promise.race([connecting, late.promise]);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    return Object.assign(endOf(socket), { events });
  } catch (error) {
    // It may still come.
    connecting.then(
      (socket) => socket.terminate(),
      () => {},
    );
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** Of a socket of Bun's, whose methods need their socket. */
export function endOf(socket: Bun.Socket<unknown>): End & { terminate(): void } {
  return {
    write: (bytes) => socket.write(bytes),
    pause: () => socket.pause(),
    resume: () => socket.resume(),
    shutdown: () => socket.shutdown(),
    terminate: () => socket.terminate(),
  };
}
