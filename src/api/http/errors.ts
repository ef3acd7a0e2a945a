import { AppError, type ErrorCode } from "../../errors.ts";

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

const DISK_FULL: ReadonlySet<unknown> = new Set(["SQLITE_FULL", "ENOSPC", "EDQUOT"]);
const TOO_MUCH: ReadonlySet<unknown> = new Set(["RESPONSE_TOO_LARGE"]);
const NO_DESCRIPTOR: ReadonlySet<unknown> = new Set(["EMFILE", "ENFILE"]);

/** What the caller may know of an error that nobody foresaw where it was thrown; null for nothing. */
export function exhaustion(error: unknown): AppError | null {
  if (isOf(error, DISK_FULL)) return new AppError("no_space", "The disk is full; free space and try again.");
  if (isOf(error, TOO_MUCH)) {
    return new AppError(
      "unavailable",
      "The answer is larger than the database server sends; its operator has to raise its --max-response-size.",
      { retryAfterS: 60 },
    );
  }
  if (!isOf(error, NO_DESCRIPTOR)) return null;
  return new AppError(
    "unavailable",
    "The appliance has too many files and connections open; try again soon.",
    {
      retryAfterS: 5,
    },
  );
}

/** Also when the database says it, in whatever its layers have wrapped it. */
function isOf(error: unknown, codes: ReadonlySet<unknown>): boolean {
  if (!(error instanceof Error)) return false;
  return ("code" in error && codes.has(error.code)) || isOf(error.cause, codes);
}

/** The end of a connection, or of what could be read of it, while its body was on its way: nobody hears the answer. */
export function isHangUp(error: unknown, request: Request): boolean {
  return request.signal.aborted && error instanceof Error && error.name === "AbortError";
}

export function hungUp(): AppError {
  return new AppError("bad_input", "The request ended before its body did.");
}
