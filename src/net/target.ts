import { AppError } from "../errors.ts";
import type { AddressPolicy, VettedAddress } from "./policy.ts";
import { parseAddress } from "./ranges.ts";
import type { Resolve } from "./resolve.ts";

/** A URL that was checked, but for where its host leads: that is `vet`'s, at every call anew. */
export interface Target {
  /** In its one spelling. */
  readonly href: string;
  readonly secure: boolean;
  /** A name in lower case without a dot at its end, or an IP address. */
  readonly host: string;
  readonly port: number;
  /** For the Host header: with the port where it is not the scheme's own. */
  readonly authority: string;
  readonly pathAndQuery: string;
}

const MAX_URL = 2048;
const MAX_NAME = 253;
/** Of one name: judging takes time that others wait for, and an answer of DNS holds thousands. */
const MAX_ADDRESSES = 64;
const LABEL = /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/;

/** Throws an AppError that says what about the URL won't do. */
export function parseTarget(text: string, { allowHttp }: { readonly allowHttp: boolean }): Target {
  if (text.length > MAX_URL) throw tooLong();
  // The URL parser drops some of these and takes "\" for "/": others who read the URL may not.
  // oxlint-disable-next-line no-control-regex
  if (/[\u0000-\u0020\u007f\\]/.test(text)) {
    throw refused("must not hold spaces, control characters or backslashes");
  }
  const scheme = /^(https?):\/\//i.exec(text)?.[1]?.toLowerCase();
  if (scheme === undefined)
    throw refused(`must start with ${allowHttp ? "https:// or http://" : "https://"}`);
  if (scheme === "http" && !allowHttp) {
    throw refused("must start with https://; only the operator can allow http");
  }
  if (/^[^/]+\/\/[^/?#]*@/.test(text)) throw refused("must not hold a user name or password");
  const url = URL.parse(text);
  if (url === null) throw refused("is not one: its host or port is not well formed");
  const secure = scheme === "https";
  const port = url.port === "" ? (secure ? 443 : 80) : Number(url.port);
  // A port below 1024 is some other protocol's, and what answers there would take the request for that.
  if (port < 1024 && port !== 443 && port !== 80) {
    throw refused(`has port ${port}; it may be 443, 80, or 1024 and above`);
  }
  const host = hostOf(url);
  const shown = host.includes(":") ? `[${host}]` : host;
  const authority = url.port === "" ? shown : `${shown}:${port}`;
  const pathAndQuery = url.pathname + url.search;
  const href = `${scheme}://${authority}${pathAndQuery}`;
  // It is what is kept, and read again at every call.
  if (href.length > MAX_URL) throw tooLong();
  return { href, secure, host, port, authority, pathAndQuery };
}

function hostOf(url: URL): string {
  const host = url.hostname.replace(/^\[(.*)\]$/, "$1").replace(/\.$/, "");
  if (parseAddress(host) !== null) return host;
  if (host.length > MAX_NAME || !host.split(".").every((label) => LABEL.test(label))) {
    throw refused("has a host that is not a name in DNS");
  }
  return host;
}

export interface Vetting {
  readonly policy: AddressPolicy;
  readonly resolve: Resolve;
}

/**
 * Looks up where a target leads and has every one of its addresses judged: one that is denied denies all, since whoever
 * owns the name chose them together. Answers those to dial, IPv4 first; a later attempt may take the next. Throws an
 * AppError that does not tell the addresses: what names of an inner network lead to is not the caller's to know.
 */
export async function vet(target: Pick<Target, "host">, vetting: Vetting): Promise<Vetted> {
  return vetHost(target.host, vetting, "The URL");
}

export type Vetted = readonly [VettedAddress, ...VettedAddress[]];

/** The same of a host alone. `subject` is what the error is about: "files.example". */
export async function vetHost(host: string, { policy, resolve }: Vetting, subject: string): Promise<Vetted> {
  const isLiteral = parseAddress(host) !== null;
  const addresses = isLiteral ? [host] : await resolve(host);
  const wrong = (why: string) => new AppError("invalid", `${subject} ${why}.`);
  if (addresses.length > MAX_ADDRESSES) throw wrong(`leads to more than ${MAX_ADDRESSES} addresses`);
  const passed = addresses.map((address) => {
    const judgement = policy.judge(address);
    if (judgement.allowed) return judgement.address;
    throw wrong(`${isLiteral ? "has" : "leads to"} ${judgement.what}`);
  });
  const [first, ...others] = passed.toSorted((a, b) => Number(a.includes(":")) - Number(b.includes(":")));
  if (first === undefined) throw wrong(`has a host, ${host}, that has no address in DNS`);
  return [first, ...others];
}

function tooLong(): AppError {
  return refused(`is longer than ${MAX_URL} characters`);
}

function refused(why: string): AppError {
  return new AppError("invalid", `The URL ${why}.`);
}
