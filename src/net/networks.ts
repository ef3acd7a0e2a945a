import ipaddr from "ipaddr.js";
import { isWithin, parseAddress, type Address } from "./ranges.ts";

type Network = readonly [Address, number];

/** "10.0.0.0/8", "fd00::/8", or one address: text that `networksOf` takes. */
export function isNetwork(text: string): boolean {
  return parseNetwork(text) !== null;
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
  const isCidr = ipaddr.IPv4.isValidCIDRFourPartDecimal(text) || ipaddr.IPv6.isValidCIDR(text);
  return isCidr && !text.includes("%") ? ipaddr.parseCIDR(text) : null;
}
