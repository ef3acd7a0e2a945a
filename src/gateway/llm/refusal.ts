import type { Dialect } from "../../protocol/gateway.ts";

/** Why a request is not sent on, or has no answer of the provider's; the records' `reason` where it is the run's doing. */
export type RefusalReason =
  | "budget"
  | "rate"
  | "model"
  | "provider_tools"
  | "request"
  | "route"
  | "lane"
  | "too_large"
  | "credential"
  | "unreachable"
  | "timeout"
  | "full"
  | "websocket";

/** What a caller is told, in its own dialect. `detail` is a sentence, and holds no secret. */
export class Refused extends Error {
  readonly reason: RefusalReason;
  readonly retryAfterS: number | undefined;

  constructor(
    reason: RefusalReason,
    detail: string,
    options: { retryAfterS?: number; cause?: unknown } = {},
  ) {
    super(detail, { cause: options.cause });
    this.name = "Refused";
    this.reason = reason;
    this.retryAfterS = options.retryAfterS;
  }
}

interface Shape {
  readonly status: number;
  readonly type: string;
  /** Whether asking again may help: else clients are told not to, as far as they listen. */
  readonly again: boolean;
}

/**
 * What real clients make of it decided these: 402 is shown by Claude Code after one request while OpenAI's clients ask six times;
 * 403 reads as a failed login, and 404 hides the text.
 */
const SHAPES: Record<RefusalReason, Record<Dialect, Shape>> = {
  budget: {
    anthropic: { status: 402, type: "billing_error", again: false },
    openai: { status: 429, type: "insufficient_quota", again: false },
  },
  rate: {
    anthropic: { status: 429, type: "rate_limit_error", again: true },
    openai: { status: 429, type: "rate_limit_exceeded", again: true },
  },
  model: both(400, "invalid_request_error", "invalid_request_error"),
  provider_tools: both(400, "invalid_request_error", "invalid_request_error"),
  request: both(400, "invalid_request_error", "invalid_request_error"),
  route: both(404, "not_found_error", "invalid_request_error"),
  lane: both(403, "permission_error", "permission_error"),
  too_large: both(413, "request_too_large", "invalid_request_error"),
  credential: both(502, "api_error", "server_error"),
  unreachable: both(502, "api_error", "server_error", true),
  timeout: both(504, "timeout_error", "server_error", true),
  full: both(503, "overloaded_error", "server_error", true),
  websocket: both(426, "invalid_request_error", "invalid_request_error"),
};

function both(status: number, anthropic: string, openai: string, again = false): Record<Dialect, Shape> {
  return { anthropic: { status, type: anthropic, again }, openai: { status, type: openai, again } };
}

export function answerRefusal(dialect: Dialect, { reason, message, retryAfterS }: Refused): Response {
  const { status, type, again } = SHAPES[reason][dialect];
  const headers = new Headers();
  if (retryAfterS !== undefined) headers.set("retry-after", String(retryAfterS));
  if (!again) headers.set("x-should-retry", "false");
  if (status === 426) headers.set("upgrade", "HTTP/1.1");
  return errorIn(dialect, status, type, message, headers);
}

export function errorIn(
  dialect: Dialect,
  status: number,
  type: string,
  message: string,
  headers = new Headers(),
): Response {
  const body =
    dialect === "anthropic"
      ? { type: "error", error: { type, message } }
      : { error: { message, type, param: null, code: type } };
  return Response.json(body, { status, headers });
}

/** Whose caller it is, also where both have a route; `granted` decides where the request does not tell. */
export function dialectOf(request: Request, granted: readonly Dialect[] = []): Dialect {
  const { pathname } = new URL(request.url);
  if (pathname.startsWith("/v1/messages")) return "anthropic";
  if (pathname.startsWith("/v1/responses") || pathname.startsWith("/v1/chat/")) return "openai";
  const [only, ...others] = new Set(granted);
  if (only !== undefined && others.length === 0) return only;
  return request.headers.has("anthropic-version") || request.headers.has("x-api-key")
    ? "anthropic"
    : "openai";
}
