import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { runId, type InstanceTag, type RunId } from "../../ids.ts";
import { withinNetwork } from "../../kernel/network-namespace.ts";
import type { RunNetwork } from "../../protocol/sandboxd.ts";
import type { Runner } from "../runner.ts";
import { NETNS_DIR, runOfNetns, vethPrefix, type NetworkNames } from "./names.ts";

const TIMEOUT_MS = 10_000;
const MAX_LISTING_BYTES = 16 * 1024 * 1024;

/** The sandbox's end of the pair, in a namespace that has nothing else. */
const INSIDE = "eth0";

/**
 * A namespace of its own with one end of a pair, and the other end on the host; no bridge, nothing in between. The host's
 * end has no address yet and is down, so that the pair carries nothing.
 */
export async function makePair(
  run: Runner,
  names: NetworkNames,
  network: RunNetwork,
  prefix: number,
): Promise<void> {
  const { netns, netnsPath, veth } = names;
  await batch(
    run,
    ["ip", "-batch", "-"],
    [
      `netns add ${netns}`,
      `link add ${veth} mtu 1500 type veth peer name ${INSIDE} netns ${netns}`,
      `link set dev ${veth} alias ${names.run} addrgenmode none`,
    ],
  );
  setHostEnd(veth);
  withinNetwork(netnsPath, noIpv6);
  await batch(
    run,
    ["ip", "-n", netns, "-batch", "-"],
    [
      // gVisor takes over what is up: without this there would be no localhost.
      "link set dev lo up",
      `addr add ${network.run}/${prefix} dev ${INSIDE}`,
      `link set dev ${INSIDE} up`,
      // Whatever has no other way comes to the host's end, and ends there, counted.
      `route add default via ${network.host}`,
    ],
  );
}

/** The last step: all the rest holds by then. */
export async function connectPair(
  run: Runner,
  { veth }: NetworkNames,
  network: RunNetwork,
  prefix: number,
): Promise<void> {
  await batch(
    run,
    ["ip", "-batch", "-"],
    [`addr add ${network.host}/${prefix} dev ${veth}`, `link set dev ${veth} up`],
  );
}

async function batch(run: Runner, argv: readonly string[], lines: readonly string[]): Promise<void> {
  await run(argv, { timeoutMs: TIMEOUT_MS, stdin: `${lines.join("\n")}\n` });
}

/** What the host's end is told, besides having no IPv6: to believe nothing that does not belong to its network. */
export const HOST_END = {
  rp_filter: 1,
  accept_redirects: 0,
  send_redirects: 0,
  accept_source_route: 0,
  route_localnet: 0,
  proxy_arp: 0,
  // Answers for its own address only, and only to its own network: the host's others are nobody's to learn.
  arp_ignore: 2,
  arp_announce: 2,
} as const;

/** Also of one that lives: whoever sets these for all interfaces, as a start of systemd-sysctl does, sets them here too. */
export function setHostEnd(veth: string): void {
  for (const [name, value] of Object.entries(HOST_END)) {
    writeSetting(`ipv4/conf/${veth}/${name}`, value);
  }
  if (!hasIpv6()) return;
  for (const [name, value] of [
    ["accept_ra", 0],
    ["disable_ipv6", 1],
  ] as const) {
    writeSetting(`ipv6/conf/${veth}/${name}`, value);
  }
}

function writeSetting(name: string, value: number): void {
  writeFileSync(`/proc/sys/net/${name}`, `${value}`, { flag: "r+" });
}

function noIpv6(): void {
  if (!hasIpv6()) return;
  for (const which of ["all", "default"]) {
    writeSetting(`ipv6/conf/${which}/disable_ipv6`, 1);
  }
}

/** A kernel that was built or started without it has no such directory. */
function hasIpv6(): boolean {
  return existsSync("/proc/sys/net/ipv6");
}

const LOOK_EVERY_MS = 1;

/**
 * Takes away whatever is there of a link; what is not there is a success. Nobody finds either any more when this resolves;
 * the kernel frees them in its own time, and `ip` stays in it for that long.
 */
export async function removeLink(
  run: Runner,
  { veth, netns }: { readonly veth: string; readonly netns: string | null },
): Promise<void> {
  const remove = (isThere: () => boolean, line: string) =>
    untilGone(isThere, () => batch(run, ["ip", "-batch", "-"], [line]));
  await Promise.all([
    remove(() => interfaces().includes(veth), `link del ${veth}`),
    netns !== null && remove(() => existsSync(`${NETNS_DIR}/${netns}`), `netns del ${netns}`),
  ]);
}

async function untilGone(isThere: () => boolean, remove: () => Promise<void>): Promise<void> {
  if (!isThere()) return;
  const removing = remove().then(
    () => new Error("it is still there"),
    (error: unknown) => error,
  );
  for (;;) {
    const failure = await Promise.race([removing, sleep(LOOK_EVERY_MS)]);
    // Also when it went by itself, so that nothing was found to be removed.
    if (!isThere()) return;
    if (failure !== undefined) throw failure;
  }
}

export interface ShownLink {
  readonly veth: string;
  /** Whose it says it is: null for one that was left half made. */
  readonly run: RunId | null;
  readonly host: string | null;
}

const listing = z.array(
  z.object({
    ifname: z.string(),
    ifalias: z.string().optional(),
    addr_info: z.array(z.object({ family: z.string(), local: z.string().optional() })).optional(),
  }),
);

/** Every interface of this instance on the host. */
export async function shownLinks(run: Runner, inst: InstanceTag): Promise<ShownLink[]> {
  if (interfacesOf(inst).length === 0) return [];
  // Without -d, addr tells no alias.
  const text = await run(["ip", "-j", "-d", "addr", "show", "type", "veth"], {
    timeoutMs: TIMEOUT_MS,
    maxOutputBytes: MAX_LISTING_BYTES,
  });
  return listing
    .parse(JSON.parse(text === "" ? "[]" : text))
    .filter(({ ifname }) => ifname.startsWith(vethPrefix(inst)))
    .map(({ ifname, ifalias, addr_info = [] }) => ({
      veth: ifname,
      run: runId.schema.safeParse(ifalias).data ?? null,
      host: addr_info.find(({ family }) => family === "inet")?.local ?? null,
    }));
}

/** By their names alone. */
export function interfacesOf(inst: InstanceTag): string[] {
  return interfaces().filter((name) => name.startsWith(vethPrefix(inst)));
}

export function shownNamespaces(inst: InstanceTag): RunId[] {
  return namesIn(NETNS_DIR)
    .map((name) => runOfNetns(inst, name))
    .filter((run) => run !== null);
}

/** By the kernel's table of this process' own network namespace; /sys may have been mounted in another. */
function interfaces(): string[] {
  return readFileSync("/proc/self/net/dev", "utf8")
    .split("\n")
    .flatMap((line) => /^\s*([^\s:]+):/.exec(line)?.[1] ?? []);
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
