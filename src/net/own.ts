import { readFileSync } from "node:fs";
import { isWithin, parseAddress, type Address, type Network } from "./ranges.ts";

/** How old the kernel's tables may be: they take a while to read, and each call out asks twice. */
const MAX_AGE_MS = 1000;

/**
 * Whether an address is this host's own, by the kernel's routing tables: all that it would deliver to itself, the second
 * addresses of interfaces and routes of type local among it. A confined role can read these, while a list of interfaces
 * takes a netlink socket, which it may not have.
 */
export function createOwnAddresses(): (address: string) => boolean {
  const known = { networks: [] as readonly Network[], readAt: Number.NEGATIVE_INFINITY };
  return (text) => {
    const address = parseAddress(text);
    if (address === null) throw new Error(`${JSON.stringify(text)} is not an IP address`);
    const now = performance.now();
    if (now - known.readAt > MAX_AGE_MS) {
      known.networks = [...localNetworks(readTable("fib_trie")), ...localNetworks6(readTable("ipv6_route"))];
      known.readAt = now;
    }
    return known.networks.some((network) => isWithin(address, network));
  };
}

function readTable(table: string): string {
  try {
    return readFileSync(`/proc/self/net/${table}`, "utf8");
  } catch (error) {
    // A kernel without IPv6.
    if (table === "ipv6_route" && (error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}

/** Of a tree with a line `|-- ADDRESS` for each entry, and below it one `/BITS SCOPE TYPE` for each length. */
function localNetworks(trie: string): Network[] {
  const networks = new Map<string, Network>();
  let address: Address | null = null;
  for (const line of trie.split("\n")) {
    const [mark = "", ...rest] = line.trim().split(" ");
    if (mark === "|--") address = parseAddress(rest[0] ?? "");
    // One address is in several tables.
    else if (rest[1] === "LOCAL" && address !== null) {
      networks.set(`${address.toString()}${mark}`, [address, Number(mark.slice(1))]);
    }
  }
  return [...networks.values()];
}

/** RTF_LOCAL and RTF_ANYCAST of the kernel's ipv6_route.h. */
const RTF_OWN = 0x80100000;

/** Of lines `ADDRESS BITS SOURCE BITS GATEWAY METRIC REFERENCES USES FLAGS INTERFACE`, all in hexadecimal. */
function localNetworks6(routes: string): Network[] {
  return routes.split("\n").flatMap((line): Network[] => {
    const [digits = "", bits = "", , , , , , , flags = "0"] = line.split(" ");
    if ((Number.parseInt(flags, 16) & RTF_OWN) === 0) return [];
    const address = parseAddress(digits.match(/.{4}/g)?.join(":") ?? "");
    return address === null ? [] : [[address, Number.parseInt(bits, 16)]];
  });
}
