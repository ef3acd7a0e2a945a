import type { Inside } from "./inside.ts";
import type { Neighbour } from "./neighbour.ts";
import { dropsOf, filterOf } from "./network.ts";
import { execArguments } from "./inside.ts";
import type { LiveRun } from "./run.ts";
import { see, type Section } from "./section.ts";

export interface Tried {
  readonly neighbour: Neighbour;
  /** Packets to neighbours' networks that the run's filter had dropped by then. */
  readonly before: number;
  readonly inside: Inside;
}

export async function droppedForNeighbours(run: LiveRun): Promise<number> {
  return dropsOf(await filterOf(run), run.names.net.chain)["neighbour"] ?? 0;
}

/** What was tried while the neighbour was there. */
export async function neighbourSection(run: LiveRun, tried: () => Promise<Tried>): Promise<Section> {
  return see({
    name: "neighbour",
    title: "A neighbour's gateway and its own",
    claim:
      "From inside the run its own gateway is reachable, and a neighbour's is blocked by the filter on the host.",
    by_hand: [
      `ss -tlnp | grep ':${run.host.config.gateway_port} '`,
      `${execArguments(run).join(" ")} timeout 2 bash -c 'exec 3<>/dev/tcp/ADDRESS/${run.host.config.gateway_port}'`,
      `iptables -t raw -vxnL ${run.names.net.chain} | grep neighbour`,
    ],
    look: async () => {
      const { neighbour, before, inside } = await tried();
      const after = await droppedForNeighbours(run);
      const { reached } = inside;
      const { listener, made } = neighbour;
      const own = reached["own gateway"];
      const theirs = reached["neighbour's gateway"];
      const facts = {
        neighbour: {
          run: neighbour.run,
          address: listener.address,
          port: listener.port,
          started_for_this: made,
        },
        listening: { uid: listener.uid, inode: listener.inode },
        own: {
          address: run.network.host,
          result: own === "done" ? "REACHABLE" : "BLOCKED",
          error: own ?? "not tried",
        },
        theirs: { result: theirs === "done" ? "REACHABLE" : "BLOCKED", error: theirs ?? "not tried" },
        dropped: { before, after },
        routes: inside.routes,
      };
      return {
        facts,
        lines: [
          `neighbour ${neighbour.run}${made ? ", started for this since there was none" : ""}: its gateway listens at ${listener.address}:${listener.port} (uid ${listener.uid})`,
          `neighbour's gateway ${listener.address}:${listener.port}: ${facts.theirs.result}${theirs === "done" ? "" : ` (${theirs})`}`,
          `own gateway ${run.network.host}:${listener.port}: ${facts.own.result}`,
          ...inside.routes.map((route) => `the sandbox's own route: ${route}`),
          `packets dropped as "neighbour" by ${run.names.net.chain}: ${before} before, ${after} after`,
        ],
        wrong: [
          ...(theirs === undefined || theirs === "done" ? ["the neighbour's gateway is within reach"] : []),
          ...(own === "done" ? [] : [`its own gateway is not within reach (${own}), so this shows nothing`]),
          ...(after > before ? [] : ["no packet was dropped for it, so something else was in the way"]),
        ],
      };
    },
  });
}
