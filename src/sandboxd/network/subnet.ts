import ipaddr from "ipaddr.js";
import type { Config } from "../../config/schema.ts";
import { AppError } from "../../errors.ts";
import { isCidr, kindOf, parseAddress } from "../../net/ranges.ts";
import type { RunNetwork } from "../../protocol/sandboxd.ts";

/** What all runs' networks are cut from: equal parts, by number. */
export interface Subnet {
  readonly cidr: string;
  /** Of each run's own network. */
  readonly prefix: number;
  /** How many networks there are. */
  readonly count: number;
  /** The first address of a part is the host's end, the second the run's. */
  network(index: number): RunNetwork;
  /** Whose host end an address is; null when it is nobody's. */
  indexOf(host: string): number | null;
  /** Whether it has an address in common with another network, or one address. */
  overlaps(cidr: string): boolean;
}

/** What `[runs]` says of it, checked as a whole. Throws a sentence that says what to set. */
export function subnetOf({ subnet, prefix }: Pick<Config["runs"], "subnet" | "prefix">): Subnet {
  const whole = rangeOf(subnet);
  if (whole === null) throw invalid(`subnet = "${subnet}" is not an IPv4 network such as 10.42.0.0/16.`);
  const { first, bits } = whole;
  const named = subnet.split("/")[0];
  if (named !== text(first)) {
    throw invalid(
      `subnet = "${subnet}" has bits beyond its /${bits}; that network is ${text(first)}/${bits}.`,
    );
  }
  if (!isPrivate(whole)) {
    throw invalid(
      `subnet = "${subnet}" is not within a private network; take a part of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10.`,
    );
  }
  if (prefix < bits) {
    throw invalid(
      `prefix = ${prefix} asks for networks larger than subnet = "${subnet}"; set it from ${bits} to 30.`,
    );
  }
  const size = 2 ** (32 - prefix);
  const count = 2 ** (prefix - bits);
  return {
    cidr: subnet,
    prefix,
    count,
    network(index) {
      if (!Number.isInteger(index) || index < 0 || index >= count) {
        throw new Error(`${subnet} has no network ${index}`);
      }
      const start = first + index * size;
      return { index, host: text(start + 1), run: text(start + 2) };
    },
    indexOf(host) {
      const address = parseAddress(host);
      if (address === null || address.kind() !== "ipv4") return null;
      const offset = number(address) - first;
      return offset >= 0 && offset < count * size && offset % size === 1 ? (offset - 1) / size : null;
    },
    overlaps(cidr) {
      const other = rangeOf(cidr);
      return other !== null && other.first <= whole.last && whole.first <= other.last;
    },
  };
}

interface Range {
  readonly first: number;
  readonly last: number;
  readonly bits: number;
}

/** Of "10.0.0.0/8", or one address; null for what is neither. */
function rangeOf(cidr: string): Range | null {
  const whole = cidr.includes("/") ? cidr : `${cidr}/32`;
  if (!isCidr(whole)) return null;
  const [address, bits] = ipaddr.parseCIDR(whole);
  if (address.kind() !== "ipv4") return null;
  const size = 2 ** (32 - bits);
  const first = Math.floor(number(address) / size) * size;
  return { first, last: first + size - 1, bits };
}

/** By both ends: no private network has a hole but for the address of a cloud's metadata service. */
function isPrivate({ first, last }: Range): boolean {
  const kinds = [first, last].map((address) => kindOf(ipaddr.IPv4.parse(text(address))));
  return kinds.every((kind) => kind === "private") && last - first < 2 ** 24;
}

function number(address: { toByteArray(): number[] }): number {
  return address.toByteArray().reduce((sum, byte) => sum * 256 + byte, 0);
}

function text(address: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(address / 2 ** shift) % 256).join(".");
}

function invalid(problem: string): AppError {
  return new AppError("invalid", `In the configuration's [runs], ${problem}`);
}
