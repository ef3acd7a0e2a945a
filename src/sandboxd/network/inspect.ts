import { join } from "node:path";
import { readFileSync } from "node:fs";
import { z } from "zod";
import type { Config } from "../../config/schema.ts";
import type { Instance } from "../../instance/instance.ts";
import type { Runner } from "../runner.ts";
import { shownLinks, shownNamespaces } from "./link.ts";
import { networkNames } from "./names.ts";
import { createRules, TABLES, type FilteredRun } from "./rules.ts";
import { lanesIn, readShown, type ShownTable } from "./shown.ts";
import { subnetOf } from "./subnet.ts";
import { isWhole, NONE, type Wanted } from "./transaction.ts";

/** One table of the packet filter: what it has of ours, and what it should. */
export interface InspectedTable {
  readonly table: string;
  readonly shown: ShownTable;
  readonly wanted: Wanted;
  readonly whole: boolean;
}

/** Judges the walls from outside sandboxd, by what the host shows of runs; there must be one. */
export async function inspectWalls({
  instance,
  config,
  run: command,
}: {
  readonly instance: Instance;
  readonly config: Config;
  readonly run: Runner;
}): Promise<InspectedTable[]> {
  const { inst } = instance;
  const subnet = subnetOf(config.runs);
  const rules = createRules({ inst, subnet: subnet.cidr, gatewayPort: config.runs.gateway_port });
  const [text, links] = await Promise.all([
    command(["iptables-save"], { timeoutMs: 15_000, maxOutputBytes: 32 * 1024 * 1024 }),
    shownLinks(command, inst),
  ]);
  const shown = readShown(text, inst);
  const namespaces = new Set(shownNamespaces(inst));
  const runs = links.flatMap(({ run, host }): FilteredRun[] => {
    const index = host === null ? null : subnet.indexOf(host);
    if (run === null || index === null || !namespaces.has(run)) return [];
    const names = networkNames(inst, run);
    return [{ names, network: subnet.network(index), lanes: lanesIn(shown, names.chain) }];
  });
  const guarded = guardedBy(join(instance.sandboxd.dir, "forwarding.json"));
  const hasLanes = runs.some(({ lanes }) => lanes.length > 0);
  return TABLES.map((table) => {
    const parts = runs.map((run) => rules.part(table, run)).filter((one) => one !== null);
    const wanted = { base: table === "nat" && !hasLanes ? NONE : rules.base(table, guarded), parts };
    return { table, shown: shown[table], wanted, whole: isWhole(wanted, shown[table]) };
  });
}

function guardedBy(path: string): string[] {
  const isOn = readFileSync("/proc/sys/net/ipv4/conf/all/forwarding", "utf8").trim() === "1";
  try {
    return isOn ? [] : z.array(z.string()).parse(JSON.parse(readFileSync(path, "utf8")));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
