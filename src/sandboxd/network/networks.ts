import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import type { Config } from "../../config/schema.ts";
import { runId, type RunId } from "../../ids.ts";
import type { Instance } from "../../instance/instance.ts";
import type { Log } from "../../log.ts";
import { createOwnAddresses } from "../../net/own.ts";
import { createAddressPolicy } from "../../net/policy.ts";
import type { RunNetwork } from "../../protocol/sandboxd.ts";
import { explain, OperationError, StepError } from "../../protocol/lines/failure.ts";
import { createTurns } from "../../turns.ts";
import type { Runner } from "../runner.ts";
import { createIndexes, type Indexes, type Resting } from "./allocate.ts";
import { whileNoOtherClaims } from "./claim.ts";
import { createFirewall } from "./firewall.ts";
import { createForwarding } from "./forwarding.ts";
import {
  connectPair,
  interfacesOf,
  makePair,
  removeLink,
  setHostEnd,
  shownLinks,
  shownNamespaces,
} from "./link.ts";
import { networkNames } from "./names.ts";
import { problemOfOverlap } from "./overlap.ts";
import type { FilteredRun, Lane } from "./rules.ts";
import { lanesIn, runsIn, type Drops } from "./shown.ts";
import { subnetOf } from "./subnet.ts";
import { createWatch } from "./watch.ts";

const REST_MS = 10_000;
/** Until what a sandboxd before this one left is looked at again, when that failed. */
const SETTLE_AGAIN_MS = 1_000;

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
  /** With a network that is nobody's and goes afterwards. */
  tryOut<T>(work: (network: MadeNetwork) => Promise<T>): Promise<T>;
  /** Sets which addresses a run reaches by NAT: such as anyone may dial, and none of this host's or of a run. */
  openLanes(run: RunId, lanes: readonly Lane[]): Promise<void>;
  /** All of it; what is not there is a success. The run's sandbox has to be gone. */
  remove(run: RunId): Promise<void>;
  /** Every run of which the host shows anything. */
  list(): Promise<RunId[]>;
  /** How many of a run's packets were dropped since its start, by what they were. */
  drops(run: RunId): Promise<Drops>;
  /** Why this host can't give a run a network, as a sentence that says what to do; null when it can. */
  problem(): Promise<string | null>;
  /** Whether there is anything to look after: a run's network, or what is left of one. */
  isLeft(): boolean;
  /** Whether the walls of what there is stand; mends them, and lets nothing pass before that. Cheap, and never rejects. */
  watch(): Promise<void>;
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
  const forwarding = createForwarding({ run: command, path: join(instance.sandboxd.dir, "forwarding.json") });
  const policy = createAddressPolicy({
    allowPrivate: () => config.egress.allow_private,
    setting: "[egress] allow_private",
    isOwn: createOwnAddresses(),
  });
  const noneFree = `all ${subnet.count} networks of [runs] subnet are in use, or rest after use; a larger [runs] prefix makes more.`;
  const turns = createTurns();
  const known = new Map<RunId, FilteredRun>();
  const tried = new Set<RunId>();
  const watch = createWatch({
    firewall,
    veths: () => interfacesOf(inst),
    log,
  });
  /** `failed`: when it did last with runs from before, which are cut off since. */
  const start: { settled: Promise<Indexes> | null; failed: number | null } = { settled: null, failed: null };

  /** Once, and again only when it failed: an appliance without runs needs none of this. */
  async function settled(): Promise<Indexes> {
    start.settled ??= settle().then(
      (indexes) => {
        start.failed = null;
        return indexes;
      },
      (error: unknown) => {
        start.settled = null;
        if (interfacesOf(inst).length > 0) {
          start.failed = performance.now();
          watch.fail(error);
        }
        throw error;
      },
    );
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
    if (![...known.values()].some(hasLanes)) forwarding.turnOff();
    await firewall.settle([...known.values()], forwarding.guarded());
    watch.open();
    return indexes;
  }

  /** The subnet is ours as long as our walls stand, by which other instances know; they come with the first run's rules. */
  async function enclose(made: FilteredRun): Promise<void> {
    await turns.run("claim", async () => {
      const ensure = () => step("filter", firewall.ensure(made));
      if (firewall.stands()) return await ensure();
      await whileNoOtherClaims(async () => {
        const problem = await problemOfOverlap(command, { inst, subnet });
        if (problem !== null) throw new OperationError("failed", problem);
        await ensure();
      });
    });
  }

  async function make(run: RunId): Promise<FilteredRun> {
    const indexes = await settled();
    const before = known.get(run);
    if (before !== undefined) return before;
    const index = indexes.take();
    if (index === null) throw new OperationError("unavailable", noneFree);
    const names = networkNames(inst, run);
    const made: FilteredRun = { names, network: subnet.network(index), lanes: [] };
    known.set(run, made);
    // Where others have walls the subnet is ours already, and what comes from an interface without rules is dropped.
    const isOurs = firewall.stands();
    const enclosed = enclose(made);
    const paired = step("link", makePair(command, names, made.network, subnet.prefix));
    const failures = await failuresOf([
      enclosed,
      paired,
      Promise.all(isOurs ? [paired] : [enclosed, paired]).then(() =>
        step("link", connectPair(command, names, made.network, subnet.prefix)),
      ),
    ]);
    if (failures.length === 0) return made;
    await unmake(run).catch((error: unknown) =>
      log.error("a network is not wholly removed", { run, error: explain(error) }),
    );
    throw failures[0];
  }

  /** api has judged these, and may have been taken over since. */
  function judge(address: string): void {
    const judgement = subnet.overlaps(address)
      ? { allowed: false, what: "an address of a run" }
      : policy.judge(address);
    if (judgement.allowed) return;
    throw new OperationError("bad_request", `${address} can't be reached directly: it is ${judgement.what}`);
  }

  /** What can't be removed stays known, and is tried again. The walls stand until what is behind them is gone. */
  async function unmake(run: RunId): Promise<void> {
    const indexes = await settled();
    await removeLink(command, networkNames(inst, run));
    await turns.run("claim", () => firewall.remove(run));
    const before = known.get(run);
    if (before === undefined) return;
    known.delete(run);
    try {
      indexes.release(before.network.index);
    } finally {
      if (hasLanes(before)) await turns.run("forwarding", closeForwarding);
    }
  }

  async function openForwarding({ names, network, lanes }: FilteredRun): Promise<void> {
    const addresses = lanes.map(({ address }) => address);
    const more = await forwarding.missing(names.veth, network.run, addresses);
    await firewall.guard([...new Set([...forwarding.guarded(), ...more])]);
    forwarding.turnOn(more);
  }

  async function closeForwarding(): Promise<void> {
    if ([...known.values()].some(hasLanes)) return;
    forwarding.turnOff();
    await firewall.guard([]);
  }

  async function ensure(run: RunId): Promise<MadeNetwork> {
    return await turns.run(run, async () => {
      const { network, names } = await make(run);
      return { ...network, netnsPath: names.netnsPath };
    });
  }

  return {
    ensure,

    async tryOut(work) {
      const run = runId.make();
      tried.add(run);
      try {
        return await work(await ensure(run));
      } finally {
        await turns.run(run, () => unmake(run));
        tried.delete(run);
      }
    },

    openLanes: (run, lanes) =>
      turns.run(run, async () => {
        await settled();
        for (const { address } of lanes) judge(address);
        const before = known.get(run);
        if (before === undefined) throw new OperationError("bad_request", `${run} has no network`);
        const after = { ...before, lanes };
        await turns.run("forwarding", async () => {
          if (hasLanes(after)) await watch.needingPairs(() => openForwarding(after));
          await firewall.ensure(after);
          known.set(run, after);
          await closeForwarding();
        });
      }),

    remove: (run) => turns.run(run, () => unmake(run)),

    async list() {
      await settled();
      const shown = await firewall.shown();
      return [...new Set([...known.keys(), ...shownNamespaces(inst), ...runsIn(shown, inst)])];
    },

    async drops(run) {
      return await firewall.drops(networkNames(inst, run));
    },

    problem: () => problemOfOverlap(command, { inst, subnet }),

    isLeft: () => known.size > 0,

    async watch() {
      if (start.failed === null) return await watch.look();
      if (performance.now() - start.failed >= SETTLE_AGAIN_MS) await settled().catch(() => {});
    },

    /** Every step is tried, so that one run's trouble is not all the others'; the walls come first. */
    async reconcile(isClaimed) {
      await settled();
      const failures: unknown[] = [];
      const attempt = async (act: () => Promise<void>) => {
        try {
          await act();
        } catch (error) {
          failures.push(error);
        }
      };
      await attempt(async () => {
        if (await firewall.mend()) log.warn("rules of the packet filter that were gone are there again", {});
      });
      for (const run of new Set([...known.keys(), ...shownNamespaces(inst)])) {
        if (isClaimed(run) || tried.has(run)) continue;
        log.warn("remains of a run's network are removed", { run });
        await attempt(() => turns.run(run, () => unmake(run)));
      }
      for (const { names } of known.values()) {
        await attempt(() =>
          turns.run(names.run, async () => {
            if (known.has(names.run)) setHostEnd(names.veth);
          }),
        );
      }
      const live = new Set([...known.values()].map(({ names }) => names.veth));
      for (const veth of interfacesOf(inst)) {
        if (!live.has(veth)) await attempt(() => removeLink(command, { veth, netns: null }));
      }
      await attempt(() => turns.run("forwarding", () => firewall.guard(forwarding.guarded())));
      if (failures.length > 0)
        throw new AggregateError(failures, "of runs' networks not all is as it should be");
    },
  };
}

function hasLanes({ lanes }: FilteredRun): boolean {
  return lanes.length > 0;
}

/** Once all have ended: what is undone must not go on. */
async function failuresOf(steps: readonly Promise<unknown>[]): Promise<unknown[]> {
  const results = await Promise.allSettled(steps);
  return results.filter((result) => result.status === "rejected").map(({ reason }) => reason as unknown);
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
      writeFileSync(`${path}.new`, JSON.stringify(value), { mode: 0o600 });
      renameSync(`${path}.new`, path);
    },
  };
}
