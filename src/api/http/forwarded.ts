import { isIP } from "node:net";
import { canonicalAddress } from "../../net/networks.ts";

/** Who sent a request, and how. */
export interface Origin {
  readonly address: string;
  /** Whether the client itself spoke TLS. */
  readonly secure: boolean;
  /** The name that the client called, as a Host header has it. */
  readonly host: string;
}

export interface Arrival {
  /** The other end of the connection. */
  readonly peer: string;
  readonly encrypted: boolean;
  readonly headers: Headers;
}

/**
 * The client behind the proxies that are trusted. X-Forwarded-For is read from its right end, where each proxy adds the
 * address that it saw: the first that is none of theirs is the client, whatever that client wrote to the left of it.
 * From anyone but a trusted proxy these headers mean nothing. What is no address ends the search: then the proxy that
 * passed it on is all that is known.
 */
export function originOf(arrival: Arrival, trusted: { has(address: string): boolean }): Origin {
  const { headers } = arrival;
  const peer = canonicalAddress(arrival.peer) ?? arrival.peer;
  const host = headers.get("host") ?? "";
  if (!trusted.has(peer)) return { address: peer, secure: arrival.encrypted, host };
  const hops = headers.get("x-forwarded-for")?.split(",") ?? [];
  let address = peer;
  while (hops.length > 0 && trusted.has(address)) {
    const hop = addressOf(hops.pop()?.trim() ?? "");
    if (hop === null) break;
    address = hop;
  }
  return {
    address,
    secure: lastOf(headers.get("x-forwarded-proto"))?.toLowerCase() === "https",
    host: lastOf(headers.get("x-forwarded-host")) ?? host,
  };
}

/** Of a list, what the proxy next to here added. */
function lastOf(header: string | null): string | undefined {
  return header?.split(",").at(-1)?.trim();
}

/** Some proxies add the port: 192.0.2.1:4711, [2001:db8::1]:4711. */
function addressOf(hop: string): string | null {
  const bare = isIP(hop) === 0 ? hop.replace(/:\d{1,5}$/, "").replace(/^\[(.*)\]$/, "$1") : hop;
  return canonicalAddress(bare);
}

const HOST = /^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?$/;

/** A name or address with or without a port, as a Host header has it, and such that a URL can: not 1.2.3.4.5, nor port 99999. */
export function isHost(text: string): boolean {
  return HOST.test(text) && URL.canParse(`http://${text}`);
}
