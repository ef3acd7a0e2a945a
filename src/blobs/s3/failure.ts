import { AppError } from "../../errors.ts";
import type { Answer } from "./http.ts";
import { textOf } from "./xml.ts";

/**
 * Why the bucket did not do what was asked. `message` is for the operator and names the bucket; a tenant is told
 * what `forCaller` makes of it.
 */
export class BucketFailure extends Error {
  /** away: it may pass by itself. full: something has to be deleted. wrong: settings or rights have to be changed. */
  readonly kind: "away" | "full" | "wrong";

  constructor(kind: BucketFailure["kind"], message: string, cause?: unknown) {
    super(message, { cause });
    this.name = "BucketFailure";
    this.kind = kind;
  }
}

const RETRY_AFTER_S = 5;

/** The error that a call ends with, when the bucket failed it. */
export function forCaller(failure: BucketFailure): AppError {
  if (failure.kind === "full") {
    return new AppError("no_space", "The store is full; delete something and try again.", { cause: failure });
  }
  return new AppError("unavailable", "The store of this appliance does not answer; try again soon.", {
    retryAfterS: RETRY_AFTER_S,
    cause: failure,
  });
}

/** The same for the operator, at a start and in `doctor`. */
export function forOperator(failure: BucketFailure): AppError {
  const code = { away: "unavailable", full: "no_space", wrong: "invalid" } as const;
  return new AppError(code[failure.kind], failure.message, { cause: failure.cause });
}

/** Statuses that S3's own clients try again, too. */
const PASSING: ReadonlySet<number> = new Set([408, 429, 500, 502, 503, 504]);
const PASSING_CODES: ReadonlySet<string> = new Set([
  "RequestTimeout",
  "SlowDown",
  "InternalError",
  "OperationAborted",
]);
/** Amazon's buckets are never full. These are MinIO's, Ceph's and versitygw's words for it. */
const FULL_CODES: ReadonlySet<string> = new Set([
  "QuotaExceeded",
  "XMinioStorageFull",
  "XMinioAdminBucketQuotaExceeded",
  "InsufficientStorage",
]);

/** S3's own name of what was wrong, "" when the answer is not one of S3's. */
export function codeOf({ status, body }: Answer): string {
  // What a success holds may be anything.
  if (status < 300) return "";
  return textOf(new TextDecoder().decode(body.subarray(0, 4096)), "Code") ?? "";
}

/** Whether the same request may well succeed a little later. */
export function isPassing(answer: Answer): boolean {
  return !isFull(answer) && (PASSING.has(answer.status) || PASSING_CODES.has(codeOf(answer)));
}

function isFull(answer: Answer): boolean {
  return answer.status === 507 || FULL_CODES.has(codeOf(answer));
}

/** A sentence for an answer that is no success, with what to do. */
export function failureOf(answer: Answer, bucket: string): BucketFailure {
  const code = codeOf(answer);
  const said = `${answer.status}${code === "" ? "" : ` ${code}`}`;
  const wrong = (what: string) => new BucketFailure("wrong", `Bucket ${bucket}: ${what} (${said}).`);
  if (isFull(answer)) {
    return new BucketFailure(
      "full",
      `Bucket ${bucket} is full (${said}); delete something or raise its quota.`,
    );
  }
  if (isPassing(answer)) {
    return new BucketFailure("away", `Bucket ${bucket}: its server can't answer now (${said}); see its log.`);
  }
  switch (code) {
    case "NoSuchBucket":
      return wrong("there is no such bucket; make it, or put [storage] bucket right");
    case "SignatureDoesNotMatch":
      return wrong("the secret key is wrong; put the credentials right");
    case "InvalidAccessKeyId":
    case "XAdminUserNotFound":
      return wrong("nobody has this access key; put the credentials right");
    case "ExpiredToken":
    case "InvalidToken":
      return wrong("the session token is not valid any more; renew the credentials and reload");
    // MinIO's, and older versions' of others, for a request that would have it encrypt.
    case "NotImplemented":
    case "ServerSideEncryptionConfigurationNotFoundError":
      return wrong("it can't encrypt; give its server a key service, or put [storage] sse right");
    case "RequestTimeTooSkewed":
      return wrong("this host's clock is too far from the server's; set it right (timedatectl set-ntp true)");
    case "AuthorizationHeaderMalformed":
    case "PermanentRedirect":
    case "AuthorizationQueryParametersError":
      return wrong(`it is in ${regionIn(answer)}; put [storage] region right`);
    default:
      if (answer.status === 401 || answer.status === 403) {
        return wrong("these credentials may not do this; allow them to get, put, list and delete there");
      }
      if (answer.status >= 300 && answer.status < 400) {
        return wrong("the server sends us elsewhere; put [storage] endpoint and region right");
      }
      return wrong("the server refused this; see that [storage] endpoint is an S3 server's");
  }
}

function regionIn({ body, headers }: Answer): string {
  const region = headers.get("x-amz-bucket-region") ?? textOf(new TextDecoder().decode(body), "Region");
  return region === null ? "another region" : `region ${JSON.stringify(region)}`;
}
