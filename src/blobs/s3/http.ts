import { AwsV4Signer } from "aws4fetch";
import type { Bucket } from "../../config/bucket.ts";
import type { Credentials } from "./credentials.ts";

export interface Request {
  readonly method: "GET" | "HEAD" | "PUT" | "POST" | "DELETE";
  /** Empty for the bucket itself. */
  readonly key: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array<ArrayBuffer>;
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Uint8Array<ArrayBuffer>;
}

export interface Signing {
  readonly bucket: Bucket;
  readonly credentials: Credentials;
  /** Those of the day, which are dear to derive. */
  readonly signingKeys: Map<string, ArrayBuffer>;
}

/** What is kept in memory of one object. Ours are smaller by far. */
const MAX_BODY_BYTES = 256 * 1024 * 1024;
/** For the connection and the first byte of the answer; and then for each MiB that is on its way. */
const ANSWER_MS = 10_000;
const MS_PER_MIB = 4_000;
const MIB = 1024 * 1024;

/** The URL of an object, or of the bucket. */
export function urlOf({ endpoint, name, prefix, pathStyle }: Bucket, { key, query }: Request): URL {
  const url = new URL(endpoint);
  if (!pathStyle) url.hostname = `${name}.${url.hostname}`;
  url.pathname = `${pathStyle ? `/${name}` : ""}/${key === "" ? "" : `${prefix}${key}`}`;
  for (const [field, value] of Object.entries(query ?? {})) url.searchParams.set(field, value);
  return url;
}

/**
 * One signed request and its whole answer, within `withinMs`. Throws when none came, or less than was announced: then
 * nobody knows whether it was done.
 */
export async function exchange(
  { bucket, credentials, signingKeys }: Signing,
  request: Request,
  withinMs: number,
): Promise<Answer> {
  const { method, body } = request;
  const signer = new AwsV4Signer({
    ...credentials,
    cache: signingKeys,
    url: urlOf(bucket, request).href,
    method,
    service: "s3",
    region: bucket.region,
    headers: {
      ...request.headers,
      // Signed, so that the server finds out when it got something else.
      "x-amz-content-sha256": new Bun.CryptoHasher("sha256").update(body ?? "").digest("hex"),
    },
  });
  const { url, headers } = await signer.sign();
  headers.set("accept-encoding", "identity");

  const end = performance.now() + withinMs;
  const patience = new AbortController();
  /** From now on; never past the end. */
  const within = (ms: number) =>
    setTimeout(
      () => patience.abort(new DOMException("no answer in time", "TimeoutError")),
      Math.max(0, Math.min(ms, end - performance.now())),
    );
  let timer = within(ANSWER_MS + msFor(body?.length ?? 0));
  try {
    const response = await fetch(url, {
      method,
      headers,
      ...(body === undefined ? {} : { body }),
      signal: patience.signal,
      redirect: "manual",
    });
    const announced = method === "HEAD" ? 0 : Number(response.headers.get("content-length") ?? "0");
    if (announced > MAX_BODY_BYTES) throw new Error(`an answer of ${announced} bytes`);
    clearTimeout(timer);
    timer = within(ANSWER_MS + msFor(announced));
    // Throws when less comes than was announced, or no end.
    const received = new Uint8Array(await response.arrayBuffer());
    return { status: response.status, headers: response.headers, body: received };
  } finally {
    clearTimeout(timer);
  }
}

function msFor(bytes: number): number {
  return (bytes / MIB) * MS_PER_MIB;
}
