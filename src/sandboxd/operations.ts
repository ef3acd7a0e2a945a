import type { Log } from "../log.ts";
import {
  operations,
  request,
  type response,
  type OperationArgs,
  type OperationName,
  type OperationResult,
} from "../protocol/sandboxd.ts";
import type { z } from "zod";
import { explain, OperationError, type FailureCode } from "./failure.ts";

/** The whole of what sandboxd does for a client: one handler for each operation of the protocol, and nothing else. */
export type Handlers = {
  readonly [N in OperationName]: (args: OperationArgs<N>) => Promise<OperationResult<N>>;
};

type Answer = z.infer<typeof response>;

/** Turns a request's line into its answer's; never rejects. */
export function createAnswerer(handlers: Handlers, log: Log) {
  return async (line: string, busy: boolean): Promise<string> => JSON.stringify(await answer(line, busy));

  async function answer(line: string, busy: boolean): Promise<Answer> {
    const parsed = request.safeParse(parseJson(line));
    if (!parsed.success) return refusal(idIn(line), "bad_request", "this is no request of the protocol");
    const { id, op, args } = parsed.data;
    if (busy) return refusal(id, "unavailable", "too many requests are in flight");
    try {
      return { id, ok: true, result: await perform(op, args) };
    } catch (error) {
      const code = error instanceof OperationError ? error.code : "failed";
      if (code === "failed") log.error("an operation failed", { op, error: explain(error) });
      return refusal(id, code, explain(error));
    }
  }

  async function perform<N extends OperationName>(op: N, args: unknown): Promise<OperationResult<N>> {
    const { args: argsSchema, result: resultSchema } = operations[op];
    const checked = argsSchema.safeParse(args);
    if (!checked.success) throw new OperationError("bad_request", `the arguments of ${op} are not valid`);
    // The schema of `op` made these arguments, which the compiler can't follow through the table.
    const result = await handlers[op](checked.data as OperationArgs<N>);
    return resultSchema.parse(result) as OperationResult<N>;
  }
}

function refusal(id: number, code: FailureCode, detail: string): Answer {
  return { id, ok: false, code, detail };
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

/** So that a client can tell which of its requests was bad; 0 when even that can't be read. */
function idIn(line: string): number {
  const json = parseJson(line);
  const id = typeof json === "object" && json !== null && "id" in json ? json.id : 0;
  return Number.isSafeInteger(id) ? (id as number) : 0;
}
