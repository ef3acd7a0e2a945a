/** What a client is told of a request that was not done; the schema of answers has the same codes. */
export type FailureCode = "bad_request" | "unavailable" | "failed";

export class OperationError extends Error {
  readonly code: FailureCode;

  constructor(code: FailureCode, message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.name = "OperationError";
    this.code = code;
  }
}

/** A step of a sandbox's life that failed, by its name: "slot: move_mount: EBUSY". */
export class StepError extends Error {
  readonly step: string;

  constructor(step: string, cause: unknown) {
    super(`${step}: ${explain(cause)}`, { cause });
    this.name = "StepError";
    this.step = step;
  }
}

/** An error's message with those of what caused it. */
export function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error instanceof AggregateError && error.errors.length > 0) {
    return `${error.message}: ${error.errors.map(explain).join("; ")}`;
  }
  const { cause } = error;
  if (cause === undefined || error instanceof StepError) return error.message;
  return `${error.message}: ${explain(cause)}`;
}
