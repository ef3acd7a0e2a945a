import { AppError } from "../errors.ts";
import { innermost, kindOf, parseAddress } from "../net/ranges.ts";
import { isLoopback } from "./listen.ts";
import type { Config } from "./schema.ts";

/** A bucket of any S3-compatible server, as `[storage]` names it. */
export interface Bucket {
  readonly name: string;
  /** https://HOST[:PORT]; http only to this host or to a private address. */
  readonly endpoint: string;
  readonly region: string;
  /** What the keys of all objects begin with: empty, or ending in a slash. */
  readonly prefix: string;
  /** Whether the bucket is the first part of the path, and not of the host's name. */
  readonly pathStyle: boolean;
  /** Whether the server is asked to encrypt what it stores (SSE-S3, AES256). */
  readonly sse: boolean;
}

/** What `[storage]` says as a whole, checked; null for the local disk. Throws a sentence that says what to set. */
export function bucketOf(storage: Config["storage"]): Bucket | null {
  if (storage.kind === "local") {
    if (storage.bucket === "") return null;
    throw invalid(
      `bucket = "${storage.bucket}" is set, but kind is "local"; set kind = "s3", or leave bucket out.`,
    );
  }
  if (storage.bucket === "") throw invalid('kind = "s3" needs bucket; make one, and set its name.');
  const endpoint = storage.endpoint === "" ? `https://s3.${storage.region}.amazonaws.com` : storage.endpoint;
  const { protocol, origin, hostname } = endpointOf(endpoint);
  if (!storage.path_style && parseAddress(hostname.replace(/^\[(.*)\]$/, "$1")) !== null) {
    throw invalid(
      `endpoint = "${endpoint}" is an address, which takes no bucket before it; set path_style = true.`,
    );
  }
  if (!storage.path_style && protocol === "https:" && storage.bucket.includes(".")) {
    throw invalid(
      `bucket = "${storage.bucket}" has a dot, which no certificate for host names covers; set path_style = true.`,
    );
  }
  return {
    name: storage.bucket,
    endpoint: origin,
    region: storage.region,
    prefix: storage.prefix === "" ? "" : `${storage.prefix}/`,
    pathStyle: storage.path_style,
    sse: storage.sse,
  };
}

/** The file that root reads them from, when there is a bucket and a file. */
export function credentialsFileOf({ kind, credentials_file }: Config["storage"]): string | null {
  return kind === "local" || credentials_file === "" ? null : credentials_file;
}

function endpointOf(endpoint: string): URL {
  const url = URL.parse(endpoint);
  if (
    url === null ||
    !["http:", "https:"].includes(url.protocol) ||
    !/^\/?$/.test(url.pathname) ||
    url.search + url.hash + url.username + url.password !== ""
  ) {
    throw invalid(`endpoint = "${endpoint}" must be https://HOST or https://HOST:PORT, and no more.`);
  }
  if (url.protocol === "http:" && !staysClose(url.hostname)) {
    throw invalid(
      `endpoint = "${endpoint}" would send requests in the clear; use https:, or http: with a loopback or private ` +
        "address in digits (as http://10.0.0.5:9000) on a network that you trust.",
    );
  }
  return url;
}

/** A name may lead anywhere tomorrow; an address is what the operator meant. */
function staysClose(hostname: string): boolean {
  const host = hostname.replace(/^\[(.*)\]$/, "$1");
  if (host === "localhost" || isLoopback(host)) return true;
  const address = parseAddress(host);
  return address !== null && kindOf(innermost(address)) === "private";
}

function invalid(what: string): AppError {
  return new AppError("invalid", `[storage] ${what}`);
}
