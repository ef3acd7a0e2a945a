import { AppError } from "../errors.ts";
import { buildInfo } from "../version.ts";
import type { Clock } from "./clock.ts";
import { parseRetryAfter } from "./schedule.ts";
import { signedHeaders } from "./signature.ts";

/** Sends one POST to an address that is vetted for it now, follows nothing, and gives up in time. */
export type Post = (call: {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** Which attempt of this delivery it is: 1, 2, 3 … */
  readonly attempts: number;
  readonly signal: AbortSignal;
}) => Promise<{ readonly status: number; readonly retryAfter: string | null }>;

/** An event on its way. */
export interface Sendable {
  readonly eventId: string;
  readonly type: string;
  readonly body: string;
  /** This one counted. */
  readonly attempts: number;
}

export interface Outcome {
  readonly ok: boolean;
  /** Null when there was no answer. */
  readonly status: number | null;
  readonly error: string | null;
  readonly retryAfterMs: number;
  readonly tookMs: number;
}

const GONE = 410;

/** Signed anew each time. Never throws: what goes wrong is the outcome. */
export async function attempt(
  { post, clock }: { readonly post: Post; readonly clock: Clock },
  to: { readonly url: string; readonly secrets: readonly string[] },
  event: Sendable,
  signal: AbortSignal,
): Promise<Outcome> {
  const started = performance.now();
  const timestamp = Math.floor(clock.now() / 1000);
  const signed = signedHeaders({ ...event, timestamp }, to.secrets);
  const headers = { ...signed, "user-agent": `Cofferdam-Webhooks/${buildInfo.version}` };
  try {
    const { body, attempts } = event;
    const { status, retryAfter } = await post({ url: to.url, headers, body, attempts, signal });
    const tookMs = performance.now() - started;
    const ok = status >= 200 && status < 300;
    const retryAfterMs = ok ? 0 : parseRetryAfter(retryAfter, clock.now());
    return { ok, status, error: ok ? null : refusal(status), retryAfterMs, tookMs };
  } catch (error) {
    const tookMs = performance.now() - started;
    return { ok: false, status: null, error: reason(error), retryAfterMs: 0, tookMs };
  }
}

export function isGone({ status }: Outcome): boolean {
  return status === GONE;
}

function refusal(status: number): string {
  if (status >= 300 && status < 400) return `It answered ${status}; redirects are not followed.`;
  if (status === GONE) return `It answered ${status}: gone.`;
  return `It answered ${status}.`;
}

/** For the owner of the webhook: a sentence, and nothing of what else the network may have said. */
function reason(error: unknown): string {
  return error instanceof AppError ? error.message : "It could not be sent; the appliance's log may say why.";
}
