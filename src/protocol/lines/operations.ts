import { z } from "zod";
import type { Log } from "../../log.ts";
import { explain, OperationError, type FailureCode } from "./failure.ts";

/*
 * What one role asks another, newline-framed JSON over a unix socket. Several requests may be in flight; answers carry
 * the request's `id`. A protocol is a table of operations, with a schema each for what is asked and what is answered.
 */
interface Operation {
  readonly args: z.ZodType;
  readonly result: z.ZodType;
}
export type Operations = Readonly<Record<string, Operation>>;
export type NameOf<O extends Operations> = Extract<keyof O, string>;
export type ArgsOf<O extends Operations, N extends NameOf<O>> = z.infer<O[N]["args"]>;
export type ResultOf<O extends Operations, N extends NameOf<O>> = z.infer<O[N]["result"]>;

/** The whole of what a role does for a client: one handler for each operation of the protocol, and nothing else. */
export type Handlers<O extends Operations> = {
  readonly [N in NameOf<O>]: (args: ArgsOf<O, N>) => Promise<ResultOf<O, N>>;
};

export const request = z.strictObject({ id: z.int().min(0), op: z.string(), args: z.unknown() });

export const response = z.discriminatedUnion("ok", [
  z.strictObject({ id: z.int(), ok: z.literal(true), result: z.unknown() }),
  z.strictObject({
    id: z.int(),
    ok: z.literal(false),
    /** bad_request: the caller's fault; unavailable: try again later; failed: a step on the host failed. */
    code: z.enum(["bad_request", "unavailable", "failed"]),
    detail: z.string(),
  }),
]);
type Answer = z.infer<typeof response>;

/** Turns a request's line into its answer's; never rejects. */
export function createAnswerer<O extends Operations>(operations: O, handlers: Handlers<O>, log: Log) {
  return async (line: string, busy: boolean): Promise<string> => JSON.stringify(await answer(line, busy));

  async function answer(line: string, busy: boolean): Promise<Answer> {
    const parsed = request.safeParse(parseJson(line));
    if (!parsed.success || !isName(parsed.data.op)) {
      return refusal(idIn(line), "bad_request", "this is no request of the protocol");
    }
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

  function isName(op: string): op is NameOf<O> {
    return Object.hasOwn(operations, op);
  }

  async function perform<N extends NameOf<O>>(op: N, args: unknown): Promise<ResultOf<O, N>> {
    const { args: argsSchema, result: resultSchema } = operations[op] as O[N];
    const checked = argsSchema.safeParse(args);
    if (!checked.success) throw new OperationError("bad_request", `the arguments of ${op} are not valid`);
    // The schema of `op` made these arguments, which the compiler can't follow through the table.
    const result = await handlers[op](checked.data as ArgsOf<O, N>);
    return resultSchema.parse(result) as ResultOf<O, N>;
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
