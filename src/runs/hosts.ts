import { AppError } from "../errors.ts";
import type { EgressGrant } from "../protocol/gateway.ts";
import { parseAddress } from "../net/ranges.ts";

/** What a request's egress lists mean. Nothing is looked up here: the gateway does, at every connection. */
type Allowed = EgressGrant["allow"][number];

const LABEL = /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/;
const DEFAULT_PORT = 443;

/**
 * Whoever may write to any bucket of these may carry everything out to one of their own, so that a host of theirs is no
 * host of somebody's. (A registry that redirects into one needs a mirror of its own.)
 */
const SHARED_STORAGE = [
  "amazonaws.com",
  "backblazeb2.com",
  "blob.core.windows.net",
  "cloudfront.net",
  "digitaloceanspaces.com",
  "r2.cloudflarestorage.com",
  "r2.dev",
  "storage.googleapis.com",
  "wasabisys.com",
];

/** "pypi.example", "*.example.org", "example.org:8443"; the port is 443 unless it is said. */
export function parseAllowed(text: string): Allowed {
  const lower = text.toLowerCase();
  const match = /^(\*\.)?([a-z0-9._-]+?)\.?(?::(\d{1,5}))?$/.exec(lower);
  const [, star = "", name = "", portText] = match ?? [];
  const port = portText === undefined ? DEFAULT_PORT : Number(portText);
  const labels = name.split(".");
  if (match === null || name.length > 253 || !labels.every((label) => LABEL.test(label))) {
    throw refused(text, 'is no host, "*.HOST" or "HOST:PORT"');
  }
  if (port < 1 || port > 65_535) throw refused(text, "has a port that is not between 1 and 65535");
  if (parseAddress(name) !== null || labels.every((label) => /^\d+$|^0x[0-9a-f]+$/.test(label))) {
    throw refused(text, "is an address; name hosts here, and addresses in egress.direct");
  }
  if (star !== "" && labels.length < 2) throw refused(text, "is too wide; *.HOST wants two labels below it");
  const shared = SHARED_STORAGE.find(
    (suffix) =>
      name === suffix || name.endsWith(`.${suffix}`) || (star !== "" && suffix.endsWith(`.${name}`)),
  );
  if (shared !== undefined) {
    throw refused(
      text,
      `leads to storage that everybody shares (${shared}), where anything can be carried out to`,
    );
  }
  return { host: `${star}${name}`, port };
}

/** "203.0.113.7:5432". */
export function parseDirect(text: string): { address: string; port: number } {
  const match = /^(\d{1,3}(?:\.\d{1,3}){3}):(\d{1,5})$/.exec(text);
  const [, address = "", portText = ""] = match ?? [];
  const port = Number(portText);
  if (match === null || parseAddress(address)?.toString() !== address || port < 1 || port > 65_535) {
    throw refused(text, "is not an IPv4 address and a port, such as 203.0.113.7:5432");
  }
  return { address, port };
}

/** Whether a pattern of the workspace's policy covers one of a request: the same port, and the same host or one below. */
export function covers(ceiling: Allowed, wanted: Allowed): boolean {
  if (ceiling.port !== wanted.port) return false;
  if (ceiling.host === wanted.host) return true;
  return ceiling.host.startsWith("*.") && wanted.host.replace(/^\*\./, "").endsWith(ceiling.host.slice(1));
}

function refused(text: string, why: string): AppError {
  return new AppError("invalid", `${JSON.stringify(text)} ${why}.`);
}
