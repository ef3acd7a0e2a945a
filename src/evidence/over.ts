import { existsSync } from "node:fs";
import type { RunId } from "../ids.ts";
import type { RunOnRecord } from "../protocol/evidence.ts";
import { faultOf } from "../runs/receipt.ts";
import { interfacesOf, shownNamespaces } from "../sandboxd/network/link.ts";
import { networkNames } from "../sandboxd/network/names.ts";
import { runNames } from "../sandboxd/run/names.ts";
import { mountPointsBelow } from "../sandboxd/slot.ts";
import { processesWith } from "../sandboxd/run/teardown.ts";
import { cgroupParent } from "../sandboxd/names.ts";
import { listenerAt } from "./listening.ts";
import { filterOf } from "./network.ts";
import type { Host } from "./run.ts";
import { pairs, see, type Section } from "./section.ts";

const PATIENCE_MS = 2000;
const LOOK_EVERY_MS = 50;

/** Of a run that is over: nothing but what is written of it. */
export async function remainsSection(id: RunId, { network }: RunOnRecord, host: Host): Promise<Section> {
  const { instance } = host;
  const names = runNames(instance, id);
  const net = networkNames(instance.inst, id);
  return see({
    name: "remains",
    title: "What is left of it on the host",
    claim: "Of a run that is over nothing is left but its worktree, its output and its record.",
    by_hand: [
      `pgrep -fa ${id}; ip netns | grep ${net.netns}; ip link show ${net.veth}; iptables-save | grep ${net.chain}`,
      `findmnt ${names.work}; find /sys/fs/cgroup -name ${id}; ls -d ${names.directory}`,
    ],
    look: async () => {
      const facts = await settled(async () => remainsOf(id, { network }, host));
      const kinds = countsOf(facts);
      return {
        facts,
        lines: pairs(kinds.map(([kind, count]) => [kind, count === 0 ? "none" : `${count}`])),
        wrong: kinds.filter(([, count]) => count > 0).map(([kind]) => `there is still something of: ${kind}`),
      };
    },
  });
}

/** Of a run that ended just now, the last of it is being removed. */
async function settled(look: () => Promise<Remains>): Promise<Remains> {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    const facts = await look();
    if (countsOf(facts).every(([, count]) => count === 0) || performance.now() > deadline) return facts;
    await Bun.sleep(LOOK_EVERY_MS);
  }
}

type Remains = Awaited<ReturnType<typeof remainsOf>>;

function countsOf(facts: Remains): [kind: string, count: number][] {
  return Object.entries(facts).map(([kind, found]) => [
    kind,
    Array.isArray(found) ? found.length : found === null ? 0 : 1,
  ]);
}

async function remainsOf(id: RunId, { network }: Pick<RunOnRecord, "network">, host: Host) {
  const { instance } = host;
  const names = runNames(instance, id);
  const net = networkNames(instance.inst, id);
  const filter = await filterOf({ host });
  return {
    processes: processesWith((argument) => argument === `--root=${names.runscRoot}`).map(([pid]) => pid),
    namespaces: shownNamespaces(instance.inst).filter((run) => run === id),
    interfaces: interfacesOf(instance.inst).filter((name) => name === net.veth),
    rules: filter.split("\n").filter((line) => line.includes(net.chain)),
    cgroups: host.cgroups.children(cgroupParent(instance)).filter((name) => name === id),
    mounts: mountPointsBelow(instance.sandboxd.worktrees).filter((point) => point === names.work),
    directories: [names.directory, `${instance.sockets.runs}/${id}`].filter((path) => existsSync(path)),
    // Another run may have its network by now.
    gateway:
      network === null || reused(filter, network.run)
        ? null
        : (listenerAt(network.host, host.config.gateway_port) ?? null),
  };
}

function reused(filter: string, address: string): boolean {
  return filter.includes(` ${address}/32 `);
}

export async function receiptSection({ run_id, status, receipt, key }: RunOnRecord): Promise<Section> {
  return see({
    name: "receipt",
    title: "Its receipt",
    claim:
      "What the appliance saw of it is signed with the appliance's key, and no byte of that was changed.",
    by_hand: [
      `cofferdam receipt get ${run_id} >receipt.json; cofferdam receipt key >key.pem; cofferdam receipt verify receipt.json --key key.pem`,
    ],
    look: () => {
      if (receipt === null) throw new Error("it has none; the appliance's log says why");
      const fault = faultOf(receipt, key.public_key);
      const payload = JSON.parse(receipt.payload) as Record<string, unknown>;
      return {
        facts: { receipt, key, payload },
        lines: pairs([
          ["signed by", receipt.key_id],
          ...Object.entries(payload).map(
            ([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)] as const,
          ),
        ]),
        wrong: [
          ...(fault === null ? [] : [fault]),
          ...(payload["run_id"] === run_id && payload["status"] === status
            ? []
            : ["it is not of this run and its end"]),
        ],
      };
    },
  });
}
