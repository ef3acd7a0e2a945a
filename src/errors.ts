/**
 * The one error type that a caller may see. `detail` is a sentence a person can act on and holds no secret;
 * src/api/http/errors.ts maps `code` to an HTTP status, src/cli maps it to an exit code. Any other throw is a 500.
 */
export type ErrorCode =
  | "bad_input" // 400
  | "unauthenticated" // 401
  | "forbidden" // 403
  | "not_found" // 404
  | "method_not_allowed" // 405
  | "timeout" // 408
  | "conflict" // 409
  | "too_large" // 413
  | "not_text" // 415
  | "range_not_satisfiable" // 416
  | "invalid" // 422
  | "busy" // 429, with retryAfterS
  | "internal" // 500
  | "sandbox_lost" // 502: the call was cut short and may have changed something
  | "unavailable" // 503, with retryAfterS
  | "no_space"; // 507

export class AppError extends Error {
  readonly code: ErrorCode;
  readonly retryAfterS: number | undefined;

  constructor(code: ErrorCode, detail: string, options: { retryAfterS?: number; cause?: unknown } = {}) {
    super(detail, { cause: options.cause });
    this.name = "AppError";
    this.code = code;
    this.retryAfterS = options.retryAfterS;
  }
}

/** The AppError that an error is, or that layers such as drizzle's have wrapped; null for one that nobody foresaw. */
export function foreseen(error: unknown): AppError | null {
  if (error instanceof AppError) return error;
  return error instanceof Error && error.cause !== undefined ? foreseen(error.cause) : null;
}

/** The errno's name, of our own system calls and of Bun's. */
export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}
