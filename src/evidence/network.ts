import { readFileSync, statSync } from "node:fs";
import { z } from "zod";
import { HOST_END } from "../sandboxd/network/link.ts";
import { createRules, TABLES, type FilteredRun } from "../sandboxd/network/rules.ts";
import { readShown } from "../sandboxd/network/shown.ts";
import { subnetOf } from "../sandboxd/network/subnet.ts";
import { faultsIn } from "../sandboxd/network/transaction.ts";
import { chainPrefix } from "../sandboxd/network/names.ts";
import type { LiveRun } from "./run.ts";
import { pairs, see, type Section } from "./section.ts";

const TIMEOUT_MS = 10_000;
const MAX_SAVED_BYTES = 32 * 1024 * 1024;

const link = z.object({
  ifname: z.string(),
  mtu: z.int(),
  operstate: z.string(),
  ifalias: z.string().optional(),
  /** The bridge that it would be in. */
  master: z.string().optional(),
  linkinfo: z.object({ info_kind: z.string() }).loose().optional(),
  addr_info: z.array(
    z.object({ family: z.string(), local: z.string().optional(), prefixlen: z.int().optional() }),
  ),
});
type Link = z.infer<typeof link>;

export async function networkSection(run: LiveRun): Promise<Section> {
  const { names, network, host } = run;
  const { veth, netns, netnsPath } = names.net;
  return see({
    name: "network",
    title: "Its network",
    claim:
      "It has a network namespace of its own, with one end of a pair whose other end is on the host, in no bridge; that end believes no address but its own network's, and neither has IPv6.",
    by_hand: [
      `ip -d addr show dev ${veth}; ip -n ${netns} -d addr; ip -n ${netns} route`,
      `sysctl -a 2>/dev/null | grep -F 'conf.${veth}.' | grep -E 'rp_filter|redirects|source_route|localnet|proxy_arp|arp_|disable_ipv6'`,
    ],
    look: async () => {
      const { prefix } = subnetOf(host.config);
      const [outer] = await linksOf(run, ["dev", veth]);
      const inner = await linksOf(run, [], netns);
      if (outer === undefined) throw new Error(`there is no ${veth}`);
      const routes = (await host.run(["ip", "-n", netns, "route"], { timeoutMs: TIMEOUT_MS })).split("\n");
      const facts = {
        netns: {
          name: netns,
          inode: `${statSync(netnsPath).ino}`,
          host_inode: `${statSync("/proc/self/ns/net").ino}`,
        },
        veth: outer,
        inside: inner,
        routes: routes.filter(Boolean),
        host_address: network.host,
        run_address: network.run,
        prefix,
        settings: settingsOf(veth),
      };
      const addresses = outer.addr_info.map(({ local, prefixlen }) => `${local}/${prefixlen}`);
      const wrongSettings = facts.settings.filter(({ value, wanted }) => value !== null && value !== wanted);
      return {
        facts,
        lines: [
          `namespace ${netns}: ${facts.netns.inode}, the host's is ${facts.netns.host_inode}`,
          `on the host: ${shown(outer)}`,
          ...inner.map((one) => `in the namespace: ${shown(one)}`),
          ...facts.routes.map((route) => `route: ${route}`),
          `gVisor has taken the address ${network.run} from there: its own network stack has it`,
          ...pairs(
            facts.settings.map(({ name, value }) => [name, value ?? "this kernel has no such setting"]),
          ),
        ],
        wrong: [
          ...(facts.netns.inode === facts.netns.host_inode ? ["it is in the host's network"] : []),
          ...(outer.master === undefined ? [] : [`${veth} is in the bridge ${outer.master}`]),
          ...(outer.linkinfo?.info_kind === "veth" ? [] : [`${veth} is no pair`]),
          ...(addresses.join() === `${network.host}/${prefix}`
            ? []
            : [`${veth} has the addresses ${addresses.join()}`]),
          ...inner.flatMap(({ ifname }) =>
            ["lo", "eth0"].includes(ifname) ? [] : [`inside there is ${ifname}`],
          ),
          ...inner.flatMap(({ ifname, addr_info }) =>
            addr_info.some(({ family }) => family === "inet6") ? [`inside, ${ifname} has IPv6`] : [],
          ),
          ...wrongSettings.map(({ name, value, wanted }) => `${name} is ${value} instead of ${wanted}`),
        ],
      };
    },
  });
}

async function linksOf({ host }: LiveRun, which: readonly string[], netns?: string): Promise<Link[]> {
  const where = netns === undefined ? [] : ["-n", netns];
  const argv = ["ip", ...where, "-j", "-d", "addr", "show", ...which];
  return z.array(link).parse(JSON.parse(await host.run(argv, { timeoutMs: TIMEOUT_MS })));
}

function shown({ ifname, mtu, operstate, linkinfo, addr_info, ifalias, master }: Link): string {
  const addresses = addr_info.map(({ local, prefixlen }) => `${local}/${prefixlen}`);
  return [
    `${ifname} ${linkinfo?.info_kind ?? "loopback"}`,
    `mtu ${mtu}`,
    operstate.toLowerCase(),
    addresses.length === 0 ? "no address" : addresses.join(" "),
    ...(ifalias === undefined ? [] : [`alias ${ifalias}`]),
    master === undefined ? "no bridge" : `bridge ${master}`,
  ].join(", ");
}

function settingsOf(veth: string): { name: string; wanted: string; value: string | null }[] {
  const wanted: (readonly [string, number])[] = [
    ...Object.entries(HOST_END).map(([name, value]) => [`ipv4/conf/${veth}/${name}`, value] as const),
    [`ipv6/conf/${veth}/disable_ipv6`, 1],
  ];
  return wanted.map(([name, value]) => ({ name, wanted: `${value}`, value: settingOf(name) }));
}

function settingOf(name: string): string | null {
  try {
    return readFileSync(`/proc/sys/net/${name}`, "utf8").trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

/** What iptables-save shows, with its counts. */
export async function filterOf({ host }: Pick<LiveRun, "host">): Promise<string> {
  return host.run(["iptables-save", "-c"], { timeoutMs: TIMEOUT_MS, maxOutputBytes: MAX_SAVED_BYTES });
}

export async function filterSection(run: LiveRun): Promise<Section> {
  const { names, host, network, onRecord } = run;
  const { inst } = host.instance;
  const { chain } = names.net;
  return see({
    name: "filter",
    title: "Its packet filter",
    claim:
      "On the host's end, before anything else sees a packet: what comes from the run's own address to its gateway's two ports passes, or goes to its direct lanes; all else is dropped, and counted by what it was. Nobody else's packets get to the run's network.",
    by_hand: [`iptables-save -c | grep -E '^\\*|${chainPrefix(inst)}(PRE|IN|FWD|OUT|NAT)|${chain}'`],
    look: async () => {
      const text = await filterOf(run);
      const now = readShown(text, inst);
      const { cidr } = subnetOf(host.config);
      const rules = createRules({ inst, subnet: cidr, gatewayPort: host.config.gateway_port });
      const filtered: FilteredRun = { names: names.net, network, lanes: onRecord.grants.direct };
      const hasLanes = filtered.lanes.length > 0;
      const wrong = TABLES.filter((table) => table !== "nat" || hasLanes).flatMap((table) => {
        const part = rules.part(table, filtered);
        const wanted = { base: rules.base(table, []), parts: part === null ? [] : [part] };
        return faultsIn(wanted, now[table]).map((fault) => `in ${table}, ${fault}`);
      });
      const tables = Object.fromEntries(
        TABLES.map((table) => [
          table,
          linesIn(text, table).filter((line) => concerns(line, chainPrefix(inst), chain)),
        ]),
      );
      return {
        facts: { tables, drops: dropsOf(text, chain) },
        lines: TABLES.flatMap((table) => (tables[table] ?? []).map((line) => `${table.padEnd(6)} ${line}`)),
        wrong: [...wrong, ...beforeOurs(text, chainPrefix(inst))],
      };
    },
  });
}

/** Rules of others that are come to before the first wall, and would let a packet go round it. */
function beforeOurs(text: string, prefix: string): string[] {
  const rules = linesIn(text, "raw").filter((line) => line.includes("-A PREROUTING "));
  const ours = rules.findIndex((line) => line.includes(`-j ${prefix}`));
  return rules
    .slice(0, Math.max(0, ours))
    .filter((line) => !line.endsWith("-j DROP"))
    .map((line) => `in raw, before ours, there is ${line}`);
}

/** This run's chain, and those that all runs of the instance have in common. */
function concerns(line: string, prefix: string, chain: string): boolean {
  if (line.includes(chain)) return true;
  return ["PRE", "IN", "FWD", "OUT", "NAT"].some(
    (suffix) =>
      new RegExp(`(-A |-j )${prefix}${suffix}( |$)`).test(line) &&
      !new RegExp(`-[gj] ${prefix}[a-z2-7]{10}`).test(line),
  );
}

function linesIn(text: string, table: string): string[] {
  const block = text.split(/^\*/m).find((part) => part.startsWith(`${table}\n`)) ?? "";
  return block.split("\n").filter((line) => line.includes("-A "));
}

/** Of a run's chain, by why they were dropped. */
export function dropsOf(text: string, chain: string): Record<string, number> {
  const found = text.matchAll(
    new RegExp(`^\\[(\\d+):\\d+\\] -A ${chain} .*--comment "?([a-z]+)"? -j DROP$`, "gm"),
  );
  return Object.fromEntries([...found].map(([, packets, reason = ""]) => [reason, Number(packets)]));
}
