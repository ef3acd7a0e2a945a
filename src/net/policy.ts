import {
  innermost,
  isWithin,
  kindOf,
  parseAddress,
  parseNetworks,
  type Address,
  type Kind,
} from "./ranges.ts";

declare const vetted: unique symbol;
/** An address that a policy let pass: the one thing that is dialled. */
export type VettedAddress = string & { readonly [vetted]: true };

/** `what` completes "10.0.0.1 is …". */
export type Judgement =
  | { readonly allowed: true; readonly address: VettedAddress }
  | { readonly allowed: false; readonly what: string };

export interface AddressPolicy {
  /** Of an address as a resolver or a URL writes it. */
  judge(address: string): Judgement;
}

export interface AddressPolicyOptions {
  /** CIDRs that the operator allows, read anew for each judgement. */
  readonly allowPrivate: () => readonly string[];
  /** What the operator calls that, for messages. */
  readonly setting: string;
  /** Whether an address is this host's own: `createOwnAddresses`. */
  readonly isOwn: (address: string) => boolean;
  /**
   * Whether those CIDRs may hold loopback and this host's own addresses, too. Only where the URLs are the operator's
   * own: never for what a key's holder can set.
   */
  readonly mayAllowThisHost?: boolean;
}

/**
 * Where this appliance may be made to send something: to the public internet, and to private networks that the operator
 * names. Never to this host, to the link's neighbours or to a metadata service, which trust whoever reaches them.
 */
export function createAddressPolicy(options: AddressPolicyOptions): AddressPolicy {
  const { allowPrivate, setting, isOwn, mayAllowThisHost = false } = options;
  const isListed = (address: Address) =>
    parseNetworks(allowPrivate()).some((network) => isWithin(address, network));

  return {
    judge(text) {
      const outer = parseAddress(text);
      if (outer === null) return { allowed: false, what: "something other than an IP address" };
      const address = innermost(outer);
      const kind = kindOf(address);
      if (kind === "loopback" || [...new Set([outer, address])].some((one) => isOwn(one.toString()))) {
        const what = kind === "loopback" ? WHAT.loopback : "an address of this host itself";
        return mayAllowThisHost && isListed(address) ? pass(outer, address) : { allowed: false, what };
      }
      if (kind === "public" || (kind === "private" && isListed(address))) return pass(outer, address);
      const leave = kind === "private" ? `, which only the operator can allow, by ${setting}` : "";
      return { allowed: false, what: WHAT[kind] + leave };
    },
  };
}

const WHAT = {
  private: "an address of a private network",
  loopback: "a loopback address",
  "link-local": "a link-local address",
  metadata: "the address of a cloud's metadata service",
  multicast: "a multicast address",
  reserved: "a reserved address",
} as const satisfies Record<Exclude<Kind, "public">, string>;

/** In one spelling. An IPv4 address that is written as an IPv6 one is dialled as what it is; a translated one is not. */
function pass(outer: Address, inner: Address): Judgement {
  const isMapped = outer.kind() === "ipv6" && "isIPv4MappedAddress" in outer && outer.isIPv4MappedAddress();
  return { allowed: true, address: (isMapped ? inner : outer).toString() as VettedAddress };
}
