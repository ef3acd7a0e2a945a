import { z } from "zod";
import type { InstanceTag } from "../../ids.ts";
import type { Runner } from "../runner.ts";
import { vethPrefix } from "./names.ts";
import { othersIn } from "./shown.ts";
import type { Subnet } from "./subnet.ts";

const TIMEOUT_MS = 10_000;

/** What else on this host has addresses of our subnet, as a sentence that says what to do; null when nothing has. */
export async function problemOfOverlap(
  run: Runner,
  { inst, subnet }: { readonly inst: InstanceTag; readonly subnet: Subnet },
): Promise<string | null> {
  const [rules, inside, around] = await Promise.all([
    run(["iptables-save", "-t", "raw"], { timeoutMs: TIMEOUT_MS, maxOutputBytes: 32 * 1024 * 1024 }),
    routes(run, "root", subnet),
    routes(run, "match", subnet),
  ]);
  const other = othersIn(rules, inst).find(({ subnet: theirs }) => subnet.overlaps(theirs));
  if (other !== undefined) {
    return sentence(
      subnet,
      `overlaps ${other.subnet}, where the runs of instance ${other.inst} of this host are`,
    );
  }
  const route = [...inside, ...around].find((route) => isInTheWay(route, inst, subnet));
  if (route === undefined) return null;
  const where = route.dev === undefined ? "" : ` (${route.dev})`;
  return sentence(subnet, `overlaps this host's route to ${route.dst}${where}`);
}

function sentence({ cidr }: Subnet, problem: string): string {
  return `[runs] subnet = "${cidr}" ${problem}; set it to a private network that this host has no use for.`;
}

const listing = z.array(
  z.object({ dst: z.string(), dev: z.string().optional(), type: z.string().optional() }),
);
type Route = z.infer<typeof listing>[number];

async function routes(run: Runner, which: "root" | "match", { cidr }: Subnet): Promise<Route[]> {
  const text = await run(["ip", "-j", "-4", "route", "show", "table", "all", which, cidr], {
    timeoutMs: TIMEOUT_MS,
    maxOutputBytes: 32 * 1024 * 1024,
  });
  return listing.parse(JSON.parse(text.trim() === "" ? "[]" : text));
}

/** Routes that only say where not to send what has no better one. */
const NOWHERE = new Set(["blackhole", "unreachable", "prohibit", "throw"]);

function isInTheWay({ dst, dev, type }: Route, inst: InstanceTag, subnet: Subnet): boolean {
  if (dev?.startsWith(vethPrefix(inst)) === true || (type !== undefined && NOWHERE.has(type))) return false;
  // The default, also as the two halves in which VPNs put theirs before it.
  if (dst === "default" || dst.endsWith("/0") || dst.endsWith("/1")) return false;
  return subnet.overlaps(dst);
}
