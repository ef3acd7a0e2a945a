import type { InstanceTag } from "../../ids.ts";
import type { DropReason, RunNetwork } from "../../protocol/sandboxd.ts";
import { chainPrefix, vethPrefix, type NetworkNames } from "./names.ts";

/** An address and port that a run reaches by NAT, over TCP and UDP. */
export interface Lane {
  readonly address: string;
  readonly port: number;
}

/** A run as the filter knows it. */
export interface FilteredRun {
  readonly names: NetworkNames;
  readonly network: RunNetwork;
  readonly lanes: readonly Lane[];
}

export interface FilterOptions {
  readonly inst: InstanceTag;
  /** What all runs' networks are part of. */
  readonly subnet: string;
  /** The gateway has this port and the next one. */
  readonly gatewayPort: number;
}

export const TABLES = ["raw", "filter", "nat"] as const;
export type Table = (typeof TABLES)[number];

/** A chain of ours, and what is in it: arguments as after "-A CHAIN". */
export interface Chain {
  readonly name: string;
  readonly rules: readonly string[];
}

/** From one of the kernel's chains into one of ours. */
export interface Jump {
  readonly from: string;
  readonly to: string;
}

/** What is there as long as there is any run. */
export interface Base {
  readonly chains: readonly Chain[];
  readonly jumps: readonly Jump[];
}

/** What is added for one run: a chain of its own, and the rules by which it is come to, before all else in theirs. */
export interface RunPart {
  readonly chain: Chain;
  readonly entries: readonly { readonly chain: string; readonly rule: string }[];
}

/**
 * The walls between a run and all else, on the host's end of its pair, where gVisor's own network stack can't go round
 * them. The first is in `raw`, before the host tracks, routes or translates a packet, and so before all rules of others:
 * a run's packets come with its own address, to the gateway's ports on its own host's end, or they go no further; and
 * nobody else's go to any run's network. The second, in `filter`, knows less and holds without the first; it is also
 * what lets the gateway's port through where others drop by default. Of this host's processes, too, nobody but the
 * gateway sends a run anything.
 */
export function createRules({ inst, subnet, gatewayPort }: FilterOptions) {
  const ours = `${vethPrefix(inst)}+`;
  const name = (suffix: string) => `${chainPrefix(inst)}${suffix}`;
  const gateway = `-p tcp -m tcp --dport ${gatewayPort}:${gatewayPort + 1}`;

  const answer = `-s ${subnet} -o ${ours} -p tcp -m tcp --sport ${gatewayPort}:${gatewayPort + 1}`;

  return {
    /** `guarded`: interfaces that forward only for us; whatever else comes in there goes no further, as before. */
    base(table: Table, guarded: readonly string[]): Base {
      if (table === "raw") {
        return {
          chains: [
            {
              name: name("PRE"),
              rules: [`-i ${ours} -j DROP`, `-d ${subnet} -j DROP`, `-s ${subnet} -j DROP`],
            },
            { name: name("OUT"), rules: [`${answer} -j CT --notrack`] },
          ],
          jumps: [
            { from: "PREROUTING", to: name("PRE") },
            { from: "OUTPUT", to: name("OUT") },
          ],
        };
      }
      if (table === "filter") {
        const forward = [`-i ${ours}`, `-o ${ours}`, ...guarded.map((name) => `-i ${name}`)];
        return {
          chains: [
            {
              name: name("IN"),
              rules: [`-d ${subnet} -i ${ours} ${gateway} -j ACCEPT`, `-i ${ours} -j DROP`],
            },
            { name: name("FWD"), rules: forward.map((match) => `${match} -j DROP`) },
            { name: name("OUT"), rules: [`${answer} -j ACCEPT`, `-o ${ours} -j DROP`] },
          ],
          jumps: [
            { from: "INPUT", to: name("IN") },
            { from: "FORWARD", to: name("FWD") },
            { from: "OUTPUT", to: name("OUT") },
          ],
        };
      }
      return {
        chains: [{ name: name("NAT"), rules: [] }],
        jumps: [{ from: "POSTROUTING", to: name("NAT") }],
      };
    },

    /** Null where a run has nothing of its own in that table. */
    part(table: Table, { names, network, lanes }: FilteredRun): RunPart | null {
      const { veth, chain } = names;
      if (table === "raw") {
        return {
          chain: {
            name: chain,
            rules: [
              // Not tracked: nobody fills the host's table of connections by calling the gateway.
              `-s ${network.run} -d ${network.host} ${gateway} -j CT --notrack`,
              `-s ${network.run} -d ${network.host} ${gateway} -j RETURN`,
              `! -s ${network.run} ${drop("forged")}`,
              ...lanes.flatMap((lane) => toLane(lane).map((match) => `${match} -j RETURN`)),
              `-d 169.254.0.0/16 ${drop("metadata")}`,
              `-p udp -m udp --dport 53 ${drop("dns")}`,
              `-p tcp -m tcp --dport 53 ${drop("dns")}`,
              `-d ${subnet} ${drop("neighbour")}`,
              drop("other"),
            ],
          },
          // Not a jump: its RETURN leaves the chain that it came from, whose next rules would drop it.
          entries: [{ chain: name("PRE"), rule: `-i ${veth} -g ${chain}` }],
        };
      }
      if (lanes.length === 0) return null;
      if (table === "filter") {
        return {
          chain: {
            name: chain,
            rules: [
              ...lanes.flatMap((lane) =>
                toLane(lane).map((match) => `-s ${network.run} ${match} -i ${veth} ${NEW} -j ACCEPT`),
              ),
              `-s ${network.run} -i ${veth} ${KNOWN} -j ACCEPT`,
              // Whatever comes back: only these lanes' connections, and those of nobody to the run.
              `-d ${network.run} -o ${veth} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`,
            ],
          },
          entries: [
            // Here, so that all its lanes together have as many.
            { chain: name("FWD"), rule: `-i ${veth} ! -o ${ours} ${NEW} ${FEW} -j ${chain}` },
            { chain: name("FWD"), rule: `-i ${veth} ! -o ${ours} ${KNOWN} -j ${chain}` },
            { chain: name("FWD"), rule: `! -i ${ours} -o ${veth} -j ${chain}` },
          ],
        };
      }
      return {
        chain: {
          name: chain,
          rules: lanes.flatMap((lane) => toLane(lane).map((match) => `${match} -j MASQUERADE`)),
        },
        entries: [{ chain: name("NAT"), rule: `-s ${network.run} ! -o ${ours} -j ${chain}` }],
      };
    },
  };
}

const NEW = "-m conntrack --ctstate NEW";
const KNOWN = "-m conntrack --ctstate ESTABLISHED";
/** Connections are tracked for two minutes after their end, and the host has room for so many. */
const FEW = "-m limit --limit 20/sec --limit-burst 100";

/** The comment is what counts are told apart by. */
function drop(reason: DropReason): string {
  return `-m comment --comment ${reason} -j DROP`;
}

function toLane({ address, port }: Lane): string[] {
  return ["tcp", "udp"].map((protocol) => `-d ${address} -p ${protocol} -m ${protocol} --dport ${port}`);
}
