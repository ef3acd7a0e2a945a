import { AppError } from "../../errors.ts";

/** What proves this appliance to the server, and the server to this appliance. */
export interface ServerCredentials {
  readonly token: string | null;
  /** PEM of the authorities to believe instead of the usual ones. */
  readonly ca: string | null;
}

export interface WireParts {
  readonly url: string;
  readonly credentials: () => ServerCredentials;
  readonly deadlineMs: number;
  /** Calls back in so many milliseconds, unless what it returns calls that off; for tests. */
  readonly after?: (ms: number, call: () => void) => () => void;
}

function afterTimer(ms: number, call: () => void): () => void {
  const timer = setTimeout(call, ms);
  return () => clearTimeout(timer);
}

/** Seconds that a connection is kept for the next call. */
const IDLE_S = 30;
const RETRY_AFTER_S = 2;

/**
 * HTTP to a libSQL server, for its client: every call has a deadline, goes to the configured server alone, and fails by
 * an AppError that says why.
 */
export function createWire({ url, credentials, deadlineMs, after = afterTimer }: WireParts) {
  const { origin } = new URL(url);
  // Connections of its own, and no proxy, whatever the environment says.
  const session = new Bun.FetchSession({ proxy: false, keepAlive: { idleTimeout: IDLE_S } });

  async function fetch(request: Request): Promise<Response> {
    // An answer may tell the client to go on elsewhere, where the token has no business.
    if (new URL(request.url).origin !== origin) throw away("it sent us to another server");
    const { token, ca } = credentials();
    const headers = new Headers(request.headers);
    headers.set("accept-encoding", "identity");
    if (token !== null) headers.set("authorization", `Bearer ${token}`);
    const abort = new AbortController();
    const callOff = after(deadlineMs, () => abort.abort(TIMED_OUT));
    try {
      const response = await session.fetch(request.url, {
        method: request.method,
        headers,
        body: await request.bytes(),
        signal: abort.signal,
        redirect: "manual",
        // Said outright, since an environment's NODE_TLS_REJECT_UNAUTHORIZED=0 is for what does not say it.
        tls: { rejectUnauthorized: true, ...(ca === null ? {} : { ca }) },
      });
      const { status } = response;
      if (status === 401 || status === 403) throw new TokenRefused();
      if (status >= 500 || status === 429 || (status >= 300 && status < 400)) {
        throw away(`it answers with status ${status}`);
      }
      // All of it before the deadline.
      return new Response(await response.bytes(), { status, headers: response.headers });
    } catch (error) {
      if (error instanceof AppError) throw error;
      if (abort.signal.aborted) throw new DeadlinePassed(deadlineMs);
      throw away(codeOf(error), error);
    } finally {
      callOff();
    }
  }

  return { fetch, close: () => session.close() };
}

const TIMED_OUT = Symbol("timed out");

/** The server took the call, or nobody did, and no answer came. */
export class DeadlinePassed extends AppError {
  constructor(deadlineMs: number) {
    super(
      "unavailable",
      `The database server did not answer within ${deadlineMs / 1000} s; try again soon.`,
      {
        retryAfterS: RETRY_AFTER_S,
      },
    );
  }
}

export class TokenRefused extends AppError {
  constructor() {
    super("unavailable", "The database server refuses the appliance's token; its operator has to renew it.", {
      retryAfterS: 30,
    });
  }
}

/** `why` is for the operator too, and tells a caller nothing of where the server is. */
export function away(why: string, cause?: unknown): AppError {
  return new AppError("unavailable", `The database server cannot be used (${why}); try again soon.`, {
    retryAfterS: RETRY_AFTER_S,
    cause,
  });
}

function codeOf(error: unknown): string {
  const code = error instanceof Error && "code" in error ? error.code : null;
  return typeof code === "string" ? code : "the connection failed";
}
