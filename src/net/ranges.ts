import ipaddr from "ipaddr.js";

export type Address = ipaddr.IPv4 | ipaddr.IPv6;
export type Network = readonly [Address, number];

/** Whom an address belongs to, as far as it decides whether it may be dialled. */
export type Kind = "private" | "loopback" | "link-local" | "metadata" | "multicast" | "reserved" | "public";

/**
 * IANA's special-purpose registries, and where clouds answer a machine with its own credentials or hand it work. The
 * first network that holds an address counts. Of IPv6, only what is in 2000::/3 is public.
 */
const RANGES: readonly (readonly [cidr: string, kind: Kind])[] = [
  ["168.63.129.16/32", "metadata"], // Azure's, within public space
  ["100.100.100.200/32", "metadata"], // Alibaba's
  ["fd00:ec2::/32", "metadata"], // AWS's
  ["fd20:ce::/32", "metadata"], // Google's
  ["fd00:42::42/128", "metadata"], // Scaleway's
  ["0.0.0.0/8", "reserved"],
  ["10.0.0.0/8", "private"],
  ["100.64.0.0/10", "private"],
  ["127.0.0.0/8", "loopback"],
  ["169.254.0.0/16", "link-local"], // with AWS's, Google's and most others' metadata
  ["172.16.0.0/12", "private"],
  ["192.0.0.0/24", "reserved"],
  ["192.0.2.0/24", "reserved"],
  ["192.88.99.0/24", "reserved"],
  ["192.168.0.0/16", "private"],
  ["198.18.0.0/15", "reserved"],
  ["198.51.100.0/24", "reserved"],
  ["203.0.113.0/24", "reserved"],
  ["224.0.0.0/4", "multicast"],
  ["240.0.0.0/4", "reserved"],
  ["0.0.0.0/0", "public"],
  ["::1/128", "loopback"],
  ["fc00::/7", "private"],
  ["fe80::/10", "link-local"],
  ["ff00::/8", "multicast"],
  ["2001::/23", "reserved"],
  ["2001:db8::/32", "reserved"],
  ["2002::/16", "reserved"], // 6to4, with an IPv4 address inside
  ["3fff::/20", "reserved"],
  ["2000::/3", "public"],
  ["::/0", "reserved"],
];
const NETWORKS = RANGES.map(([cidr, kind]) => ({ network: ipaddr.parseCIDR(cidr), kind }));

/** What an operator may allow, of those. */
const PRIVATE_RANGES = RANGES.filter(([, kind]) => kind === "private").map(([cidr]) => cidr);

/** Networks in which an address says which IPv4 address is meant: mapped, compatible, and translated (NAT64). */
const EMBEDDING: readonly Network[] = ["::ffff:0:0/96", "::/96", "64:ff9b::/96"].map((cidr) =>
  ipaddr.parseCIDR(cidr),
);

/** An address as a resolver or a URL writes it, or null: no short, octal or hexadecimal IPv4, no zone. */
export function parseAddress(text: string): Address | null {
  if (ipaddr.IPv4.isValidFourPartDecimal(text)) return ipaddr.IPv4.parse(text);
  return ipaddr.IPv6.isValid(text) && !text.includes("%") ? ipaddr.IPv6.parse(text) : null;
}

/** The IPv4 address inside of an IPv6 one, where there is one that a packet may end up at. */
export function innermost(address: Address): Address {
  if (address.kind() === "ipv4") return address;
  // :: and ::1 are IPv6's own.
  if (address.toNormalizedString() === "0:0:0:0:0:0:0:1") return address;
  return EMBEDDING.some((network) => isWithin(address, network))
    ? ipaddr.fromByteArray(address.toByteArray().slice(12))
    : address;
}

export function kindOf(address: Address): Kind {
  return NETWORKS.find(({ network }) => isWithin(address, network))?.kind ?? "reserved";
}

export function isWithin(address: Address, [network, bits]: Network): boolean {
  return address.kind() === network.kind() && address.match(network, bits);
}

/** "10.0.0.0/8", "fd00::/8": no short, octal or hexadecimal IPv4, no zone. */
export function isCidr(text: string): boolean {
  return (
    (ipaddr.IPv4.isValidCIDRFourPartDecimal(text) || ipaddr.IPv6.isValidCIDR(text)) && !text.includes("%")
  );
}

/** The networks of a setting that was checked: CIDRs, and addresses. */
export function parseNetworks(texts: readonly string[]): Network[] {
  return texts.map((text) => {
    const address = parseAddress(text);
    return address === null ? ipaddr.parseCIDR(text) : [address, address.kind() === "ipv4" ? 32 : 128];
  });
}

/** What is wrong with a CIDR that an operator allows, in words, or null. */
export function problemOfPrivateNetwork(cidr: string): string | null {
  const problem = problemOfNetwork(cidr);
  if (problem !== null) return problem;
  const [network, bits] = ipaddr.parseCIDR(cidr);
  const isPrivate = PRIVATE_RANGES.some((range) => {
    const [outer, outerBits] = ipaddr.parseCIDR(range);
    return bits >= outerBits && isWithin(network, [outer, outerBits]);
  });
  if (isPrivate) return null;
  return (
    `expected a network within ${PRIVATE_RANGES.join(", ")}; public addresses need no leave, ` +
    "and loopback, link-local, metadata and multicast addresses can't be given it"
  );
}

/** What is wrong with a CIDR, in words, or null. */
function problemOfNetwork(cidr: string): string | null {
  if (!isCidr(cidr)) {
    return "expected a network such as 10.1.0.0/16 or fd12:3456::/32";
  }
  const [address, bits] = ipaddr.parseCIDR(cidr);
  const first =
    address.kind() === "ipv4"
      ? ipaddr.IPv4.networkAddressFromCIDR(cidr)
      : ipaddr.IPv6.networkAddressFromCIDR(cidr);
  if (first.toNormalizedString() === address.toNormalizedString()) return null;
  return `it has bits beyond its /${bits}; that network is ${first.toString()}/${bits}`;
}
