import { runId, type InstanceTag, type RunId } from "../../ids.ts";

/** All that the host shows of one run's network, derived from its id alone: teardown looks nothing up. */
export interface NetworkNames {
  readonly run: RunId;
  readonly netns: string;
  readonly netnsPath: string;
  /** The host's end. An interface's name has 15 characters at most, so the id's last one is not in it. */
  readonly veth: string;
  /** Of iptables; in each table that has anything of this run. */
  readonly chain: string;
}

export const NETNS_DIR = "/run/netns";

export function networkNames(inst: InstanceTag, run: RunId): NetworkNames {
  const tail = run.slice("run-".length);
  const netns = `${vethPrefix(inst)}-${tail}`;
  return {
    run,
    netns,
    netnsPath: `${NETNS_DIR}/${netns}`,
    veth: `${vethPrefix(inst)}${tail}`.slice(0, 15),
    chain: `${chainPrefix(inst)}${tail}`,
  };
}

/** What the names of this instance's interfaces begin with, and of no other's. */
export function vethPrefix(inst: InstanceTag): string {
  return `cd${inst}`;
}

export function chainPrefix(inst: InstanceTag): string {
  return `CD${inst}-`;
}

/** Whose name it is, of those that networkNames made of this instance; null for any other. */
export function runOfNetns(inst: InstanceTag, name: string): RunId | null {
  return runOf(`${vethPrefix(inst)}-`, name);
}

export function runOfChain(inst: InstanceTag, name: string): RunId | null {
  return runOf(chainPrefix(inst), name);
}

function runOf(prefix: string, name: string): RunId | null {
  if (!name.startsWith(prefix)) return null;
  return runId.schema.safeParse(`run-${name.slice(prefix.length)}`).data ?? null;
}
