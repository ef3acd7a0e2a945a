import type { Bucket } from "../../config/bucket.ts";
import type { Credentials } from "./credentials.ts";
import { BucketFailure, failureOf, isPassing } from "./failure.ts";
import { createGate } from "./gate.ts";
import { exchange, type Answer, type Request } from "./http.ts";

export interface ClientParts {
  readonly bucket: Bucket;
  /** Asked for each request, so that new ones are taken at once. */
  readonly credentials: () => Credentials;
  /** How long a call may go on trying. */
  readonly patienceMs?: number;
  /** Requests on their way at once. */
  readonly concurrency?: number;
}

export interface Client {
  readonly bucket: Bucket;
  /** Until when a call that begins now may go on. */
  deadline(): number;
  /** One attempt, whatever becomes of it. */
  attempt(request: Request, deadline: number): Promise<Answer | Lost>;
  /** Attempts until one is answered for good; only for what may be done twice. Throws BucketFailure. */
  send(request: Request, deadline?: number): Promise<Answer>;
  /** Waits before attempt number `tried` + 1, or throws BucketFailure when the deadline is too near. */
  pause(tried: number, last: Answer | Lost, deadline: number): Promise<void>;
}

/** A request whose answer never came: it may have been done or not. */
export interface Lost {
  readonly lost: unknown;
}

const PATIENCE_MS = 20_000;
const CONCURRENCY = 32;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;

export function createClient(parts: ClientParts): Client {
  const { bucket, credentials, patienceMs = PATIENCE_MS, concurrency = CONCURRENCY } = parts;
  const gate = createGate(concurrency);
  const signingKeys = new Map<string, ArrayBuffer>();

  const deadlineFromNow = () => performance.now() + patienceMs;

  async function attempt(request: Request, deadline: number): Promise<Answer | Lost> {
    return gate(async () => {
      const left = deadline - performance.now();
      if (left <= 0) return { lost: new Error("its turn did not come") };
      try {
        return await exchange({ bucket, credentials: credentials(), signingKeys }, request, left);
      } catch (error) {
        return { lost: error };
      }
    });
  }

  async function pause(tried: number, last: Answer | Lost, deadline: number): Promise<void> {
    if ("lost" in last && isDistrust(last.lost)) throw inVain(last, bucket);
    // Full jitter: many that failed together don't come back together.
    const longest = Math.min(FIRST_PAUSE_MS * 2 ** tried, LONGEST_PAUSE_MS);
    const asked = "lost" in last ? 0 : secondsOf(last.headers.get("retry-after")) * 1000;
    const ms = Math.max(Math.random() * longest, asked);
    if (performance.now() + ms >= deadline) throw inVain(last, bucket);
    await Bun.sleep(ms);
  }

  return {
    bucket,
    deadline: deadlineFromNow,
    attempt,
    pause,
    async send(request, deadline = deadlineFromNow()) {
      for (let tried = 0; ; tried++) {
        const answer = await attempt(request, deadline);
        if (!("lost" in answer) && !isPassing(answer)) return answer;
        await pause(tried, answer, deadline);
      }
    },
  };
}

function secondsOf(header: string | null): number {
  return header !== null && /^\d{1,4}$/.test(header) ? Number(header) : 0;
}

function inVain(last: Answer | Lost, { name, endpoint }: Bucket): BucketFailure {
  if (!("lost" in last)) return failureOf(last, name);
  const { lost } = last;
  if (isDistrust(lost)) {
    return new BucketFailure(
      "wrong",
      `Bucket ${name}: the certificate of ${endpoint} is not trusted here (${nameOf(lost)}); add its authority to this ` +
        "host's (update-ca-certificates), or put [storage] endpoint right.",
      lost,
    );
  }
  return new BucketFailure(
    "away",
    `Bucket ${name}: ${endpoint} does not answer (${nameOf(lost)}); see that the server runs and can be reached from here.`,
    lost,
  );
}

/** OpenSSL's words for a certificate that does not prove who answers, and Bun's for another's name. Time won't heal it. */
function isDistrust(error: unknown): boolean {
  return /CERT|SELF_SIGNED|UNABLE_TO_VERIFY/.test(nameOf(error));
}

function nameOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return "code" in error && typeof error.code === "string" ? error.code : error.message;
}
