/** What the calls, sign-ins and guesses from an address are counted by. */
export interface Source {
  /** An IPv4 address, or an IPv6 /64, since whoever has one address of it has them all. */
  readonly source: string;
  /** A /24, or a /48, as one customer of a provider gets it. */
  readonly network: string;
}

/** `address` as the server tells it: IPv4, IPv6 without a zone, or IPv4 in IPv6. */
export function sourceOf(address: string): Source {
  const v4 = /^(?:::ffff:)?((\d+\.\d+\.\d+)\.\d+)$/i.exec(address);
  if (v4?.[1] !== undefined) return { source: v4[1], network: `${v4[2]}.0/24` };
  if (!address.includes(":")) return { source: address, network: address };
  const groups = groupsOf(address);
  return { source: `${groups.slice(0, 4).join(":")}::/64`, network: `${groups.slice(0, 3).join(":")}::/48` };
}

/** The eight groups, each without leading zeros. */
function groupsOf(address: string): string[] {
  const [head = "", tail] = address.toLowerCase().split("::");
  const before = head === "" ? [] : head.split(":");
  const after = tail === undefined || tail === "" ? [] : tail.split(":");
  const missing = tail === undefined ? 0 : Math.max(0, 8 - before.length - after.length);
  return [...before, ...Array.from({ length: missing }, () => "0"), ...after].map((group) =>
    group.replace(/^0+(?=.)/, ""),
  );
}
