import { AppError } from "../errors.ts";
import type { Log } from "../log.ts";
import {
  MAX_ANSWER_BYTES,
  operations,
  response,
  type OperationArgs,
  type OperationName,
  type OperationResult,
} from "../protocol/sandboxd.ts";
import { Outbox } from "./outbox.ts";

export interface SandboxdClient {
  /** Throws AppError: unavailable when sandboxd is away, late or cannot do it now; internal when it does not understand. */
  call<N extends OperationName>(op: N, args: OperationArgs<N>): Promise<OperationResult<N>>;
  close(): void;
}

/** How long api waits for each answer. A new sandbox boots in about 0.3 s; the rest is for a loaded host. */
const DEADLINE_MS: Readonly<Record<OperationName, number>> = {
  ensureSandbox: 20_000,
  stopSandbox: 10_000,
  inspectSandbox: 3_000,
  freezeSandbox: 12_000,
  thawSandbox: 6_000,
  unlockVolume: 10_000,
  // The kernel syncs the file system first.
  lockVolume: 60_000,
  unlockedVolumes: 5_000,
  writers: 1_000,
  startRun: 30_000,
  admitRun: 10_000,
  stopRun: 20_000,
  inspectRun: 5_000,
  listRuns: 5_000,
  // Longer than it is ever asked to wait.
  awaitEnds: 70_000,
  forgetRun: 5_000,
  status: 5_000,
  doctor: 60_000,
};

interface Pending {
  readonly op: OperationName;
  readonly settle: (outcome: { result: unknown } | { error: AppError }) => void;
}

/** One connection and the requests in flight on it. When it ends they all fail, and the next request makes a new one. */
interface Link {
  readonly pending: Map<number, Pending>;
  readonly send: (line: string) => void;
  readonly end: () => void;
}

/** sandboxd fills its pool once api is connected, so that api stays connected, not only while it asks for something. */
const RECONNECT_MS = 1_000;

/** api's end of sandboxd's socket. To be made when api listens for sandboxes: sandboxd takes it for the sign of that. */
export function createSandboxdClient({ path, log }: { path: string; log: Log }): SandboxdClient {
  let link: Promise<Link> | undefined;
  let lastId = 0;
  let closed = false;

  function linkUp(): Promise<Link> {
    if (link === undefined) {
      const made = connect(path, log, () => {
        if (link === made) link = undefined;
      });
      link = made;
    }
    return link;
  }

  const stayConnected = (): void => {
    linkUp().catch(() => {});
  };
  stayConnected();
  const reconnecting = setInterval(stayConnected, RECONNECT_MS);
  reconnecting.unref();

  return {
    async call<N extends OperationName>(op: N, args: OperationArgs<N>): Promise<OperationResult<N>> {
      if (closed) throw away();
      const { pending, send } = await linkUp();
      const id = (lastId += 1);
      const result = await new Promise<unknown>((resolve, reject) => {
        const timer = setTimeout(() => {
          log.warn("sandboxd did not answer in time", { op, deadlineMs: DEADLINE_MS[op] });
          pending.get(id)?.settle({ error: away() });
        }, DEADLINE_MS[op]);
        pending.set(id, {
          op,
          settle: (outcome) => {
            clearTimeout(timer);
            pending.delete(id);
            if ("error" in outcome) reject(outcome.error);
            else resolve(outcome.result);
          },
        });
        send(`${JSON.stringify({ id, op, args })}\n`);
      });
      // Parsed with this operation's own schema in takeLine, which the compiler can't follow through the map.
      return result as OperationResult<N>;
    },

    close() {
      closed = true;
      clearInterval(reconnecting);
      link?.then(
        (open) => open.end(),
        () => {},
      );
    },
  };
}

async function connect(path: string, log: Log, onEnd: () => void): Promise<Link> {
  const pending = new Map<number, Pending>();
  const decoder = new TextDecoder();
  let partial = "";
  let outbox: Outbox | undefined;

  const end = (): void => {
    onEnd();
    for (const { settle } of pending.values()) settle({ error: away() });
  };

  try {
    const socket = await Bun.connect({
      unix: path,
      socket: {
        data(socket, chunk) {
          const lines = (partial + decoder.decode(chunk, { stream: true })).split("\n");
          partial = lines.pop() ?? "";
          const good =
            partial.length <= MAX_ANSWER_BYTES &&
            lines.every((line) => line.length <= MAX_ANSWER_BYTES && takeLine(line, pending, log));
          if (!good) {
            log.error("sandboxd's answer is not allowed; the connection is dropped");
            socket.terminate();
          }
        },
        drain: () => outbox?.drain(),
        close: end,
        // Bun reports a throw from the handlers above here.
        error(socket, error) {
          log.error("the connection to sandboxd failed", { error: error.message });
          socket.terminate();
          end();
        },
      },
    });
    const out = (outbox = new Outbox(socket));
    return {
      pending,
      send: (line) => out.send(new TextEncoder().encode(line)),
      end: () => socket.terminate(),
    };
  } catch (cause) {
    onEnd();
    throw away(cause);
  }
}

/** Settles the request that the line answers. False when sandboxd may not say that. */
function takeLine(line: string, pending: Map<number, Pending>, log: Log): boolean {
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch {
    return false;
  }
  const answer = response.safeParse(json);
  if (!answer.success) return false;
  const request = pending.get(answer.data.id);
  // Its deadline has passed.
  if (request === undefined) return true;
  if (!answer.data.ok) {
    request.settle({ error: refused(request.op, answer.data, log) });
    return true;
  }
  const result = operations[request.op].result.safeParse(answer.data.result);
  if (!result.success) return false;
  request.settle({ result: result.data });
  return true;
}

function refused(op: OperationName, answer: { code: string; detail: string }, log: Log): AppError {
  switch (answer.code) {
    case "unavailable":
      return new AppError("unavailable", answer.detail, { retryAfterS: 2 });
    case "failed":
      // The detail names what is on the host; it is for the operator.
      log.error("sandboxd failed", { op, detail: answer.detail });
      return new AppError("unavailable", "The sandbox could not be prepared. The server's log says why.", {
        retryAfterS: 5,
      });
    default:
      log.error("sandboxd refused a request", { op, detail: answer.detail });
      return new AppError("internal", "The server asked for something that its sandbox service does not do.");
  }
}

function away(cause?: unknown): AppError {
  return new AppError("unavailable", "The sandbox service is not answering. Try again in a moment.", {
    retryAfterS: 2,
    cause,
  });
}
