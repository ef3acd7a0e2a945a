import { writeSync } from "node:fs";
import { sendDatagram } from "./unixsocket.ts";

/** sd_notify(3), to systemd or to `cofferdam serve`, whichever started the process. */
export interface Notifier {
  /** `fields`: more lines of NAME=value, for serve, which has them when it learns of the readiness. */
  ready(fields?: Readonly<Record<string, string>>): void;
  reloading(): void;
  stopping(): void;
  alive(): void;
  /** The start goes on, and may take so long from now on. */
  starting(forMs: number): void;
  /** How often `alive` is due; null when nobody asks for it. */
  readonly aliveEveryMs: number | null;
}

export interface NotifierOptions {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** serve's descriptor. */
  readonly link: number | null;
}

/** A notice that can't be delivered is dropped: systemd's watchdog or start timeout then says so. */
export function createNotifier({ env, link }: NotifierOptions): Notifier {
  const socket = env["NOTIFY_SOCKET"];
  const send = (lines: readonly string[]) => {
    const text = `${lines.join("\n")}\n`;
    try {
      if (link !== null) writeSync(link, text);
      else if (socket !== undefined && socket !== "") sendDatagram(socket, text);
    } catch {}
  };
  const watchdogUs = Number(env["WATCHDOG_USEC"] ?? "");
  const forUs = env["WATCHDOG_PID"] === undefined || Number(env["WATCHDOG_PID"]) === process.pid;
  return {
    ready: (fields = {}) =>
      send([...Object.entries(fields).map(([name, value]) => `${name}=${value}`), "READY=1"]),
    reloading: () => send(["RELOADING=1"]),
    stopping: () => send(["STOPPING=1"]),
    alive: () => send(["WATCHDOG=1"]),
    starting: (forMs) => send([`EXTEND_TIMEOUT_USEC=${forMs * 1000}`]),
    aliveEveryMs: watchdogUs > 0 && forUs ? watchdogUs / 2000 : null,
  };
}
