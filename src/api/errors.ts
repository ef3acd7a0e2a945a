import { AppError, type ErrorCode } from "../errors.ts";

/** The only place where an error becomes a status. */
const STATUS: Readonly<Record<ErrorCode, number>> = {
  bad_input: 400,
  unauthenticated: 401,
  forbidden: 403,
  not_found: 404,
  method_not_allowed: 405,
  timeout: 408,
  conflict: 409,
  too_large: 413,
  not_text: 415,
  range_not_satisfiable: 416,
  invalid: 422,
  busy: 429,
  internal: 500,
  sandbox_lost: 502,
  unavailable: 503,
  no_space: 507,
};

export function errorResponse(error: AppError, extra: Readonly<Record<string, string>> = {}): Response {
  const headers: Record<string, string> = { ...extra };
  if (error.code === "busy" || error.code === "unavailable") {
    headers["retry-after"] = String(Math.max(1, Math.ceil(error.retryAfterS ?? 1)));
  }
  if (error.code === "unauthenticated") headers["www-authenticate"] = "Bearer";
  return Response.json({ detail: error.message }, { status: STATUS[error.code], headers });
}

/** What a caller sees of an error that nobody foresaw; the cause goes to the log under the same request id. */
export function unforeseen(requestId: string): AppError {
  return new AppError(
    "internal",
    `The appliance failed to answer this; its log tells why under request id ${requestId}.`,
  );
}

const FULL: ReadonlySet<unknown> = new Set(["SQLITE_FULL", "ENOSPC", "EDQUOT"]);

/** Also when the database says it, in whatever its layers have wrapped it. */
export function isDiskFull(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return ("code" in error && FULL.has(error.code)) || isDiskFull(error.cause);
}

export function diskFull(): AppError {
  return new AppError("no_space", "The disk is full; free space and try again.");
}

/** The end of a connection, or of what could be read of it, while its body was on its way: nobody hears the answer. */
export function isHangUp(error: unknown, request: Request): boolean {
  return request.signal.aborted && error instanceof Error && error.name === "AbortError";
}

export function hungUp(): AppError {
  return new AppError("bad_input", "The request ended before its body did.");
}
