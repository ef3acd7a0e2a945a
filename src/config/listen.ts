import { isIP } from "node:net";
import { AppError } from "../errors.ts";
import { problemOfProxies } from "../net/networks.ts";
import type { Config } from "./schema.ts";

export interface Endpoint {
  readonly hostname: string;
  readonly port: number;
}

/** How the API may be reached: what `[http]` says, checked as a whole. */
export interface Listening extends Endpoint {
  /** Of this host alone, so that nothing in the clear leaves it. */
  readonly loopback: boolean;
  /** The PEM files, as the operator named them. */
  readonly tls: { readonly cert: string; readonly key: string } | null;
  /** CIDRs of the proxies that tell who their clients are. */
  readonly proxies: readonly string[];
  readonly redirect: Endpoint | null;
  /** Of this host alone: it asks for no key. */
  readonly metrics: Endpoint | null;
}

/** Throws a sentence that says what to set, so that nothing starts to send keys over a network in the clear. */
export function listeningOf(http: Config["http"]): Listening {
  const { hostname, port } = endpoint("listen", http.listen);
  const loopback = isLoopback(hostname);
  const tls = http.tls_cert === "" && http.tls_key === "" ? null : { cert: http.tls_cert, key: http.tls_key };
  const missing = tls?.cert === "" ? "tls_cert" : tls?.key === "" ? "tls_key" : null;
  if (missing !== null) {
    const given = missing === "tls_key" ? "tls_cert" : "tls_key";
    throw new AppError("invalid", `[http] ${given} is set and ${missing} is not; TLS takes both files.`);
  }
  if (!loopback && tls === null && http.behind_proxy.length === 0) {
    throw new AppError(
      "invalid",
      `[http] listen = "${http.listen}" would serve keys and files in the clear beyond this host; ` +
        "set [http] tls_cert and tls_key, or behind_proxy to the CIDR of a proxy that does TLS, " +
        "or listen on a loopback address such as 127.0.0.1:8080.",
    );
  }
  for (const network of http.behind_proxy) {
    const problem = problemOfProxies(network);
    if (problem !== null) {
      throw new AppError("invalid", `[http] behind_proxy = "${network}" ${problem}`);
    }
  }
  const redirect = redirectOf(http, tls !== null);
  const metrics = metricsOf(http);
  checkApart([
    ["listen", { hostname, port }],
    ["redirect_listen", redirect],
    ["metrics_listen", metrics],
  ]);
  return {
    hostname,
    port,
    loopback,
    tls,
    proxies: http.behind_proxy,
    redirect,
    metrics,
  };
}

/** Each needs a port that no other has on an address of its. */
function checkApart(all: readonly (readonly [key: string, where: Endpoint | null])[]): void {
  const taken: (readonly [key: string, where: Endpoint])[] = [];
  for (const [key, where] of all) {
    if (where === null) continue;
    const other = taken.find(([, before]) => meet(before, where));
    if (other !== undefined) {
      throw new AppError(
        "invalid",
        `[http] ${key} = "${hostAndPort(where)}" is taken by ${other[0]} = "${hostAndPort(other[1])}"; ` +
          "each needs a port of its own.",
      );
    }
    taken.push([key, where]);
  }
}

/** "::" takes IPv4's too. */
function meet(one: Endpoint, two: Endpoint): boolean {
  if (one.port !== two.port || one.port === 0) return false;
  const hosts = [one.hostname, two.hostname];
  if (one.hostname === two.hostname || hosts.includes("::")) return true;
  return hosts.includes("0.0.0.0") && !hosts.some((host) => host.includes(":"));
}

function redirectOf(http: Config["http"], tls: boolean): Endpoint | null {
  if (http.redirect_listen === "") return null;
  if (!tls) {
    throw new AppError(
      "invalid",
      `[http] redirect_listen = "${http.redirect_listen}" leads to https, which takes [http] tls_cert and tls_key; ` +
        "behind a proxy it is the proxy that redirects.",
    );
  }
  return endpoint("redirect_listen", http.redirect_listen);
}

function metricsOf(http: Config["http"]): Endpoint | null {
  if (http.metrics_listen === "") return null;
  const where = endpoint("metrics_listen", http.metrics_listen);
  if (isLoopback(where.hostname)) return where;
  throw new AppError(
    "invalid",
    `[http] metrics_listen = "${http.metrics_listen}" would tell the network how busy this host is, without a key; ` +
      "use a loopback address such as 127.0.0.1:9090, and a tunnel or a proxy that asks who calls.",
  );
}

function endpoint(key: string, text: string): Endpoint {
  const colon = text.lastIndexOf(":");
  const host = text.slice(0, colon).replace(/^\[(.*)\]$/, "$1");
  const port = Number(text.slice(colon + 1));
  if (port > 65535) throw new AppError("invalid", `[http] ${key} = "${text}": the port is at most 65535.`);
  return { hostname: host.toLowerCase() === "localhost" ? "127.0.0.1" : host, port };
}

/** A name other than localhost may be anyone's. */
export function isLoopback(hostname: string): boolean {
  return hostname === "::1" || (isIP(hostname) === 4 && hostname.startsWith("127."));
}

/** All addresses of this host. */
export function isWildcard(hostname: string): boolean {
  return hostname === "0.0.0.0" || hostname === "::";
}

export function hostAndPort({ hostname, port }: Endpoint): string {
  return `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
}

/** Where a client finds the API; `names` are the certificate's, for an address that stands for all of the host's. */
export function baseUrl({ hostname, tls }: Listening, port: number, names: readonly string[]): string {
  const name = names.find((one) => !one.startsWith("*")) ?? "127.0.0.1";
  const where = hostAndPort({ hostname: isWildcard(hostname) ? name : hostname, port });
  // Without the port where it is the usual one.
  return new URL(`${tls === null ? "http" : "https"}://${where}`).origin;
}
