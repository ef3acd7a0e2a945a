import type { EgressGrant } from "../../protocol/gateway.ts";
import { parseAddress } from "../../net/ranges.ts";

type Allowed = EgressGrant["allow"][number];

const LABEL = /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/;

/** A name in DNS in its one spelling, or null. An address is none: what is allowed are names, and TLS shows a name. */
export function hostName(text: string): string | null {
  const name = text.toLowerCase().replace(/\.$/, "");
  const labels = name.split(".");
  if (name.length > 253 || !labels.every((label) => LABEL.test(label))) return null;
  // "0x7f000001" and "2130706433" are addresses to some.
  if (parseAddress(name) !== null || /^(\d+|0x[0-9a-f]+)$/.test(labels.at(-1) ?? "")) return null;
  return name;
}

/** `*.host` is what lies below a host, not that itself. */
export function isAllowed(allow: readonly Allowed[], host: string, port: number): boolean {
  return allow.some(
    (one) =>
      one.port === port && (one.host.startsWith("*.") ? host.endsWith(one.host.slice(1)) : one.host === host),
  );
}
