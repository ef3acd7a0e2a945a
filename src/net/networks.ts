import ipaddr from "ipaddr.js";
import { isCidr, isWithin, parseAddress, type Address, type Network } from "./ranges.ts";

/** "10.0.0.0/8", "fd00::/8", or one address: text that `networksOf` takes. */
export function isNetwork(text: string): boolean {
  return parseNetwork(text) !== null;
}

/** The largest that proxies may be anywhere in: of IPv4 that is 10.0.0.0/8. What is larger is a slip, or everyone. */
const WIDEST = { ipv4: 8, ipv6: 16 };
/** IPv6's private space may be named as a whole. */
const PRIVATE_IPV6: Network = ipaddr.parseCIDR("fc00::/7");

/** Why nobody should be believed because of an address in there, as the end of a sentence; null when that is well. */
export function problemOfProxies(text: string): string | null {
  const network = parseNetwork(text);
  if (network === null) return null;
  const [address, bits] = network;
  if (address instanceof ipaddr.IPv6 && address.isIPv4MappedAddress()) {
    return "would match nobody: write an IPv4 network as such, as 10.0.0.0/8.";
  }
  if (bits >= WIDEST[address.kind()] || (bits >= PRIVATE_IPV6[1] && isWithin(address, PRIVATE_IPV6)))
    return null;
  const least = `/${WIDEST[address.kind()]} is the widest that is taken`;
  return `would believe ${bits === 0 ? "everyone" : "a good part of the Internet"}; name the proxies' own addresses (${least}).`;
}

/** All of them together; an IPv4 address counts as itself also where it is written as an IPv6 one. */
export function networksOf(texts: readonly string[]): { has(address: string): boolean } {
  const networks = texts.map(parseNetwork).filter((network) => network !== null);
  return {
    has(text) {
      const address = networks.length === 0 ? null : parse(text);
      return address !== null && networks.some((network) => isWithin(address, network));
    },
  };
}

/**
 * One spelling for each address, or null for what is none: IPv6 in its shortest form, IPv4 as itself also where a
 * dual-stack socket wrote it as ::ffff:1.2.3.4.
 */
export function canonicalAddress(text: string): string | null {
  return parse(text)?.toString() ?? null;
}

function parse(text: string): Address | null {
  const address = parseAddress(text);
  return address instanceof ipaddr.IPv6 && address.isIPv4MappedAddress() ? address.toIPv4Address() : address;
}

function parseNetwork(text: string): Network | null {
  const single = parse(text);
  if (single !== null) return [single, single.kind() === "ipv4" ? 32 : 128];
  return isCidr(text) ? ipaddr.parseCIDR(text) : null;
}
