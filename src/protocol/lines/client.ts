import { AppError } from "../../errors.ts";
import type { Log } from "../../log.ts";
import { response, type ArgsOf, type NameOf, type Operations, type ResultOf } from "./operations.ts";
import { Outbox } from "./outbox.ts";

export interface LineClient<O extends Operations> {
  /** Throws AppError: unavailable when the role is away, late or cannot do it now; internal when it does not understand. */
  call<N extends NameOf<O>>(op: N, args: ArgsOf<O, N>): Promise<ResultOf<O, N>>;
  close(): void;
}

/** The role that is asked, and in which words its failures are told to who called the API. */
export interface Service<O extends Operations> {
  readonly name: string;
  readonly operations: O;
  readonly maxAnswerBytes: number;
  /** How long each answer is waited for. */
  readonly deadlineMs: Readonly<Record<NameOf<O>, number>>;
  /** It does not answer. */
  readonly away: string;
  /** A step failed; the log says which. */
  readonly failed: string;
  /** It does not do what it was asked. */
  readonly refused: string;
}

export interface LineClientOptions<O extends Operations> {
  readonly path: string;
  readonly service: Service<O>;
  readonly log: Log;
}

interface Pending {
  readonly op: string;
  readonly settle: (outcome: { result: unknown } | { error: AppError }) => void;
}

/** One connection and the requests in flight on it. When it ends they all fail, and the next request makes a new one. */
interface Link {
  readonly pending: Map<number, Pending>;
  readonly send: (line: string) => void;
  readonly end: () => void;
}

/** A role may go by whether it has a client, so this one stays connected, not only while it asks for something. */
const RECONNECT_MS = 1_000;

/** The asking end of a role's socket. */
export function createLineClient<O extends Operations>({
  path,
  service,
  log,
}: LineClientOptions<O>): LineClient<O> {
  let link: Promise<Link> | undefined;
  let lastId = 0;
  let closed = false;

  function linkUp(): Promise<Link> {
    if (link === undefined) {
      const made = connect(path, service, log, () => {
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
    async call(op, args) {
      if (closed) throw away(service);
      const { pending, send } = await linkUp();
      const id = (lastId += 1);
      const result = await new Promise<unknown>((resolve, reject) => {
        const deadlineMs = service.deadlineMs[op];
        const timer = setTimeout(() => {
          log.warn("a role did not answer in time", { of: service.name, op, deadlineMs });
          pending.get(id)?.settle({ error: away(service) });
        }, deadlineMs);
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
      return result as ResultOf<O, typeof op>;
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

async function connect<O extends Operations>(
  path: string,
  service: Service<O>,
  log: Log,
  onEnd: () => void,
): Promise<Link> {
  const pending = new Map<number, Pending>();
  const decoder = new TextDecoder();
  let partial = "";
  let outbox: Outbox | undefined;

  const end = (): void => {
    onEnd();
    for (const { settle } of pending.values()) settle({ error: away(service) });
  };

  try {
    const socket = await Bun.connect({
      unix: path,
      socket: {
        data(socket, chunk) {
          const lines = (partial + decoder.decode(chunk, { stream: true })).split("\n");
          partial = lines.pop() ?? "";
          const good =
            partial.length <= service.maxAnswerBytes &&
            lines.every(
              (line) => line.length <= service.maxAnswerBytes && takeLine(line, pending, service, log),
            );
          if (!good) {
            log.error("a role's answer is not allowed; the connection is dropped", { of: service.name });
            socket.terminate();
          }
        },
        drain: () => outbox?.drain(),
        close: end,
        // Bun reports a throw from the handlers above here.
        error(socket, error) {
          log.error("the connection to a role failed", { of: service.name, error: error.message });
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
    throw away(service, cause);
  }
}

/** Settles the request that the line answers. False when the role may not say that. */
function takeLine<O extends Operations>(
  line: string,
  pending: Map<number, Pending>,
  service: Service<O>,
  log: Log,
): boolean {
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
    request.settle({ error: refused(request.op, answer.data, service, log) });
    return true;
  }
  const result = service.operations[request.op]?.result.safeParse(answer.data.result);
  if (result?.success !== true) return false;
  request.settle({ result: result.data });
  return true;
}

function refused<O extends Operations>(
  op: string,
  { code, detail }: { code: string; detail: string },
  service: Service<O>,
  log: Log,
): AppError {
  switch (code) {
    case "unavailable":
      return new AppError("unavailable", detail, { retryAfterS: 2 });
    case "failed":
      // The detail names what is on the host; it is for the operator.
      log.error("a role failed to do what it was asked", { of: service.name, op, detail });
      return new AppError("unavailable", service.failed, { retryAfterS: 5 });
    default:
      log.error("a role refused a request", { of: service.name, op, detail });
      return new AppError("internal", service.refused);
  }
}

function away<O extends Operations>(service: Service<O>, cause?: unknown): AppError {
  return new AppError("unavailable", service.away, { retryAfterS: 2, cause });
}
