import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import type { Config } from "../../config/schema.ts";
import type { RunId } from "../../ids.ts";
import type { Instance } from "../../instance/instance.ts";
import type { Log } from "../../log.ts";
import { createOwnAddresses } from "../../net/own.ts";
import { createAddressPolicy } from "../../net/policy.ts";
import type { RunNetwork } from "../../protocol/sandboxd.ts";
import { explain, OperationError, StepError } from "../../protocol/lines/failure.ts";
import { createLanes } from "../lanes.ts";
import type { Runner } from "../runner.ts";
import { createIndexes, type Indexes, type Resting } from "./allocate.ts";
import { createFirewall } from "./firewall.ts";
import { makeLink, removeLink, shownLinks, shownNamespaces } from "./link.ts";
import { networkNames } from "./names.ts";
import type { FilteredRun, Lane } from "./rules.ts";
import { dropsIn, lanesIn, runsIn, type Drops } from "./shown.ts";
import { subnetOf } from "./subnet.ts";

const REST_MS = 10_000;

export interface MadeNetwork extends RunNetwork {
  /** For the sandbox's spec. */
  readonly netnsPath: string;
}

export interface Networks {
  /**
   * A network for a run, its filter in force. runsc takes the address off the inner end, so a network serves one start
   * of a sandbox: for another, remove it first. Undone wholly when a step fails.
   */
  ensure(run: RunId): Promise<MadeNetwork>;
  /** Sets which addresses a run reaches by NAT: such as anyone may dial, and none of this host's or of a run. */
  openLanes(run: RunId, lanes: readonly Lane[]): Promise<void>;
  /** All of it; what is not there is a success. The run's sandbox has to be gone. */
  remove(run: RunId): Promise<void>;
  /** Every run of which the host shows anything. */
  list(): Promise<RunId[]>;
  /** How many of a run's packets were dropped since its start, by what they were. */
  drops(run: RunId): Promise<Drops>;
  /** Removes what nobody claims, and puts back rules that someone else has taken away. */
  reconcile(isClaimed: (run: RunId) => boolean): Promise<void>;
}

export interface NetworksOptions {
  readonly instance: Instance;
  readonly config: Config;
  readonly run: Runner;
  readonly log: Log;
}

export function createNetworks({ instance, config, run: command, log }: NetworksOptions): Networks {
  const { inst } = instance;
  const subnet = subnetOf(config.runs);
  const firewall = createFirewall({
    inst,
    subnet: subnet.cidr,
    gatewayPort: config.runs.gateway_port,
    run: command,
    log,
  });
  const policy = createAddressPolicy({
    allowPrivate: () => config.egress.allow_private,
    setting: "[egress] allow_private",
    isOwn: createOwnAddresses(),
  });
  const turns = createLanes();
  const known = new Map<RunId, FilteredRun>();
  const start: { settled: Promise<Indexes> | null } = { settled: null };

  /** Once, and again only when it failed: an appliance without runs needs none of this. */
  async function settled(): Promise<Indexes> {
    start.settled ??= settle().catch((error: unknown) => {
      start.settled = null;
      throw error;
    });
    return await start.settled;
  }

  /** What a sandboxd before this one left: networks that are whole go on, whatever is half there goes. */
  async function settle(): Promise<Indexes> {
    const indexes = createIndexes({
      count: subnet.count,
      restMs: REST_MS,
      now: Date.now,
      store: restingIn(join(instance.sandboxd.dir, "networks.json")),
    });
    const shown = await firewall.shown();
    const namespaces = new Set(shownNamespaces(inst));
    for (const { veth, run, host } of await shownLinks(command, inst)) {
      const index = host === null ? null : subnet.indexOf(host);
      if (run !== null && index !== null && namespaces.delete(run)) {
        indexes.claim(index);
        const names = networkNames(inst, run);
        known.set(run, { names, network: subnet.network(index), lanes: lanesIn(shown, names.chain) });
      } else await removeLink(command, { veth, netns: null });
    }
    for (const run of namespaces) await removeLink(command, networkNames(inst, run));
    await firewall.settle([...known.values()]);
    return indexes;
  }

  async function make(run: RunId): Promise<FilteredRun> {
    const indexes = await settled();
    const before = known.get(run);
    if (before !== undefined) return before;
    const index = indexes.take();
    if (index === null) {
      throw new OperationError(
        "unavailable",
        `all ${subnet.count} networks of [runs] subnet are in use or at rest after use; a larger [runs] prefix makes more.`,
      );
    }
    const names = networkNames(inst, run);
    const made: FilteredRun = { names, network: subnet.network(index), lanes: [] };
    known.set(run, made);
    try {
      await Promise.all([
        step("filter", firewall.ensure(made)),
        step("link", makeLink(command, names, made.network, subnet.prefix)),
      ]);
      return made;
    } catch (error) {
      await unmake(run).catch((error: unknown) =>
        log.error("a network is not wholly removed", { run, error: explain(error) }),
      );
      throw error;
    }
  }

  /** api has judged these, and may have been taken over since. */
  function judge(address: string): void {
    const judgement = subnet.overlaps(address)
      ? { allowed: false, what: "an address of a run" }
      : policy.judge(address);
    if (judgement.allowed) return;
    throw new OperationError("bad_request", `${address} can't be reached directly: it is ${judgement.what}`);
  }

  async function unmake(run: RunId): Promise<void> {
    const indexes = await settled();
    const names = networkNames(inst, run);
    const steps = await Promise.allSettled([removeLink(command, names), firewall.remove(run)]);
    const failures = steps.filter((result) => result.status === "rejected").map(({ reason }) => reason);
    if (failures.length > 0) throw new AggregateError(failures, "the network");
    const { network } = known.get(run) ?? {};
    known.delete(run);
    if (network !== undefined) indexes.release(network.index);
    await firewall.leave();
  }

  return {
    ensure: (run) =>
      turns.run(run, async () => {
        const { network, names } = await make(run);
        return { ...network, netnsPath: names.netnsPath };
      }),

    openLanes: (run, lanes) =>
      turns.run(run, async () => {
        await settled();
        for (const { address } of lanes) judge(address);
        const before = known.get(run);
        if (before === undefined) throw new OperationError("bad_request", `${run} has no network`);
        const after = { ...before, lanes };
        await firewall.ensure(after);
        known.set(run, after);
      }),

    remove: (run) => turns.run(run, () => unmake(run)),

    async list() {
      await settled();
      const shown = await firewall.shown();
      return [...new Set([...known.keys(), ...shownNamespaces(inst), ...runsIn(shown, inst)])];
    },

    async drops(run) {
      return dropsIn(await firewall.shown(), networkNames(inst, run).chain);
    },

    async reconcile(isClaimed) {
      await settled();
      for (const run of new Set([...known.keys(), ...shownNamespaces(inst)])) {
        if (isClaimed(run)) continue;
        log.warn("remains of a run's network are removed", { run });
        await turns.run(run, () => unmake(run));
      }
      if (await firewall.mend()) log.warn("rules of the packet filter that were gone are there again", {});
    },
  };
}

async function step<T>(name: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw new StepError(name, error);
  }
}

const resting = z.strictObject({ next: z.int(), until: z.array(z.tuple([z.int(), z.number()])) });

/** Under /run: after a boot nothing is under way any more. */
function restingIn(path: string): { load(): Resting | null; save(resting: Resting): void } {
  return {
    load() {
      try {
        return resting.safeParse(JSON.parse(readFileSync(path, "utf8"))).data ?? null;
      } catch (error) {
        if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === "ENOENT") return null;
        throw error;
      }
    },
    save(value) {
      mkdirSync(join(path, ".."), { recursive: true, mode: 0o700 });
      writeFileSync(`${path}.new`, JSON.stringify(value), { mode: 0o600 });
      renameSync(`${path}.new`, path);
    },
  };
}
