import { AppError } from "../errors.ts";
import type { VettedAddress } from "./policy.ts";
import { parseAddress } from "./ranges.ts";
import type { Target } from "./target.ts";

export interface PostOptions {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | Uint8Array<ArrayBuffer>;
  /** For all of it: connecting, sending, and what is read of the answer. */
  readonly timeoutMs: number;
  readonly maxAnswerBytes: number;
  readonly signal?: AbortSignal;
}

export interface Answer {
  /** A redirect's as it is: it is never followed. */
  readonly status: number;
  readonly retryAfter: string | null;
  readonly body: Uint8Array;
  /** Whether there was more than was read, or it did not come in time. */
  readonly cut: boolean;
}

export interface RequestOptions {
  readonly method: "GET" | "HEAD" | "POST" | "DELETE";
  readonly headers: Readonly<Record<string, string>>;
  /** A stream is sent as it comes, no faster than it is taken; with a content-length among the headers not in chunks. */
  readonly body?: string | Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array>;
  /** Its reason is thrown when it ends a call that has no answer yet. */
  readonly signal: AbortSignal;
}

export interface Dialer {
  /**
   * POSTs to a target at one of its vetted addresses: nothing is looked up, no proxy is asked, and the certificate has
   * to be the target's host's. Throws an AppError that says how far it came when there was no answer.
   */
  post(target: Target, address: VettedAddress, options: PostOptions): Promise<Answer>;
  /**
   * As `post`, but the answer is given as soon as it begins, to be read as it comes: encoded as the server has it, for as
   * long as `signal` lets it.
   */
  request(target: Target, address: VettedAddress, options: RequestOptions): Promise<Response>;
  /** Closes the connections that are kept for the next call. */
  close(): void;
}

export interface DialerOptions {
  /** PEM of the authorities to believe instead of the usual ones. */
  readonly ca?: string;
}

/** Seconds that a connection is kept for the next call: below the 60 s at which many servers close it. */
const IDLE_S = 30;
const MAX_IDLE = 64;

export function createDialer({ ca }: DialerOptions = {}): Dialer {
  // Connections of its own. Bun keeps them by address, port and the whole of `tls`, so never for another name.
  const session = new Bun.FetchSession({
    proxy: false,
    keepAlive: { idleTimeout: IDLE_S, maxIdleSockets: MAX_IDLE },
  });

  const send = (target: Target, address: VettedAddress, { headers, ...options }: RequestOptions) => {
    const shown = address.includes(":") ? `[${address}]` : address;
    const scheme = target.secure ? "https" : "http";
    return session.fetch(`${scheme}://${shown}:${target.port}${target.pathAndQuery}`, {
      ...options,
      headers: { "accept-encoding": "identity", ...headers, host: target.authority },
      redirect: "manual",
      decompress: false,
      // Bun's own: a signal says when.
      timeout: false,
      ...(target.secure ? { protocol: "http1.1", tls: tlsFor(target.host, ca) } : {}),
    });
  };

  return {
    async request(target, address, options) {
      try {
        return await send(target, address, options);
      } catch (error) {
        options.signal.throwIfAborted();
        throw failure(target, error);
      }
    },

    async post(target, address, { headers, body, timeoutMs, maxAnswerBytes, signal }) {
      const abort = new AbortController();
      const timer = setTimeout(() => abort.abort(TIMED_OUT), timeoutMs);
      const cancel = () => abort.abort(CANCELLED);
      signal?.addEventListener("abort", cancel);
      if (signal?.aborted === true) cancel();
      try {
        const response = await send(target, address, { method: "POST", headers, body, signal: abort.signal });
        const retryAfter = response.headers.get("retry-after");
        return { status: response.status, retryAfter, ...(await readPrefix(response, maxAnswerBytes)) };
      } catch (error) {
        throw failure(target, error, timeoutMs);
      } finally {
        clearTimeout(timer);
        signal?.removeEventListener("abort", cancel);
      }
    },
    close: () => session.close(),
  };
}

const TIMED_OUT = Symbol("timed out");
const CANCELLED = Symbol("cancelled");

/** Said outright, since an environment's NODE_TLS_REJECT_UNAUTHORIZED=0 is for what does not say it. */
function tlsFor(host: string, ca: string | undefined) {
  return {
    rejectUnauthorized: true,
    // A certificate for an IP address is checked against the URL's own.
    ...(parseAddress(host) === null ? { serverName: host } : {}),
    ...(ca === undefined ? {} : { ca }),
  };
}

/** At most so much of the answer's body. The rest is not waited for: the connection is closed. */
async function readPrefix(response: Response, limit: number): Promise<{ body: Uint8Array; cut: boolean }> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  try {
    for await (const chunk of response.body ?? []) {
      chunks.push(chunk);
      length += chunk.length;
      if (length > limit) break;
    }
  } catch {
    // The status is what counts, and it came.
    return { body: Buffer.concat(chunks).subarray(0, limit), cut: true };
  }
  return { body: Buffer.concat(chunks).subarray(0, limit), cut: length > limit };
}

function failure(target: Target, error: unknown, timeoutMs = 0): AppError {
  return new AppError("unavailable", `${target.host} ${reason(target, error, timeoutMs)}.`, { cause: error });
}

function reason(target: Target, error: unknown, timeoutMs: number): string {
  if (error === TIMED_OUT) return `did not answer within ${timeoutMs / 1000} s`;
  if (error === CANCELLED) return "was not asked to the end: the call was cancelled";
  const code = (error as NodeJS.ErrnoException).code ?? "no reason given";
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID") return "showed a certificate for another name";
  if (/CERT|SIGNATURE|ISSUER|SELF_SIGNED/.test(code))
    return `showed a certificate that is not trusted (${code})`;
  if (code === "ECONNREFUSED") return `refused the connection at port ${target.port}`;
  if (code === "ECONNRESET") return "closed the connection before it answered";
  return `could not be called (${code})`;
}
