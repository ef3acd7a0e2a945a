import { existsSync, writeFileSync } from "node:fs";
import type { InstanceTag } from "../ids.ts";
import { HOST_ENV, runCommand } from "../sandboxd/runner.ts";
import { wireOf, type Wire } from "./wire.ts";

const TIMEOUT_MS = 10_000;
/** Nobody's: for documentation and for measurements. A host may have one all the same, as many a virtual machine's. */
const NETWORKS = ["192.0.2", "198.51.100", "198.18.0"] as const;

interface Ends {
  readonly host: string;
  readonly own: string;
}

const MACS = { beside: "02:00:00:00:0b:02", away: "02:00:00:00:0a:02" };

/**
 * All that lies outside the host, played by two namespaces of the proof's own. What is led there gets no further, and the
 * host's own routes, to a cloud's metadata service for one, stay as they are: a wall that is broken shows in what arrives.
 */
export interface Outside extends AsyncDisposable {
  /** A machine on a network of the host's, from which the host forwards whatever comes. */
  readonly beside: Wire;
  readonly besideAddresses: Ends;
  /** The host's end of the pair to that machine. */
  readonly besideLink: string;
  /** Where everything comes out that leaves the host. */
  readonly away: Wire;
  /** From now on the host forwards what comes in at an interface, as hosts do that have containers, and all of it to `away`. */
  lead(veth: string): Promise<void>;
}

/** Names by the instance alone, so that what a proof that was killed left is found. Not as runs' names begin. */
function namesOf(inst: InstanceTag) {
  const name = `cp${inst}`;
  return {
    beside: { netns: `${name}-beside`, link: `${name}b` },
    away: { netns: `${name}-away`, link: `${name}a` },
    table: `${0x63640000 + Number.parseInt(inst, 16)}`,
  };
}

/** Takes all of it away, whatever is there of it. */
const SWEEP = `
besides=$1 besidel=$2 aways=$3 awayl=$4 table=$5
while ip rule del table $table; do :; done
ip route flush table $table
while iptables -w 5 -D INPUT -i $besidel -j ACCEPT; do :; done
while iptables -w 5 -D FORWARD -i $besidel -o $awayl -j ACCEPT; do :; done
for netns in $besides $aways; do ip netns del $netns; done
for link in $besidel $awayl; do ip link del $link; done
exit 0`;

/** One in which the host has neither an address nor a route: else its own would be cut off while a proof lasts. */
async function freeNetwork(): Promise<string> {
  for (const network of NETWORKS) {
    const routes = ["ip", "-4", "route", "show", "table", "all", "to", "root", `${network}.0/24`];
    if ((await runCommand(routes, { timeoutMs: TIMEOUT_MS })).trim() === "") return network;
  }
  throw new Error(`the host has addresses or routes in each of ${NETWORKS.join(", ")}`);
}

export async function openOutside(inst: InstanceTag): Promise<Outside> {
  const { beside, away, table } = namesOf(inst);
  const words = [beside.netns, beside.link, away.netns, away.link, table];
  const sweep = () =>
    runCommand(["sh", "-c", `exec 2>/dev/null${SWEEP}`, "sweep", ...words], { timeoutMs: TIMEOUT_MS });
  const ip = (argv: readonly string[], lines: readonly string[]) =>
    runCommand(["ip", ...argv, "-batch", "-"], { timeoutMs: TIMEOUT_MS, stdin: `${lines.join("\n")}\n` });
  await sweep();
  const network = await freeNetwork();
  // Only the two pairs have them, and only while a proof lasts.
  const besideAddresses = { host: `${network}.1`, own: `${network}.2` };
  const awayAddresses = { host: `${network}.5`, own: `${network}.6` };
  // Sweeps when this process is gone, however it went: then the pipe from it ends.
  const undertaker = Bun.spawn(["sh", "-c", `cat >/dev/null; exec 2>/dev/null${SWEEP}`, "sweep", ...words], {
    stdin: "pipe",
    stdout: "ignore",
    stderr: "ignore",
    env: HOST_ENV,
    detached: true,
  });
  async function close(): Promise<void> {
    await undertaker.stdin.end();
    await undertaker.exited;
  }

  const pair = ({ netns, link }: typeof beside, mac: string, { host, own }: Ends) => [
    `netns add ${netns}`,
    `link add ${link} type veth peer name eth0 address ${mac} netns ${netns}`,
    `link set dev ${link} addrgenmode none`,
    `addr add ${host}/30 dev ${link}`,
    `link set dev ${link} up`,
    `neigh replace ${own} lladdr ${mac} nud permanent dev ${link}`,
  ];
  try {
    await ip([], [...pair(beside, MACS.beside, besideAddresses), ...pair(away, MACS.away, awayAddresses)]);
    for (const { netns } of [beside, away]) await ip(["-n", netns], ["link set dev eth0 up"]);
    await ip(
      [],
      [
        `route add default via ${awayAddresses.own} dev ${away.link} table ${table}`,
        `rule add pref 1000 iif ${beside.link} lookup ${table}`,
        ...(existsSync("/proc/sys/net/ipv6") ? [`addr add fe80::1/64 dev ${beside.link} nodad`] : []),
      ],
    );
    setting(beside.link, "forwarding", "1");
    setting(beside.link, "rp_filter", "0");
    // A host that drops by default would answer no control.
    for (const rule of [`INPUT -i ${beside.link}`, `FORWARD -i ${beside.link} -o ${away.link}`]) {
      const [chain = "", ...match] = rule.split(" ");
      await runCommand(["iptables", "-w", "5", "-I", chain, "1", ...match, "-j", "ACCEPT"], {
        timeoutMs: TIMEOUT_MS,
      });
    }
    const wires = { beside: wireOf(beside.netns, beside.link), away: wireOf(away.netns, away.link) };
    return {
      ...wires,
      besideAddresses,
      besideLink: beside.link,
      async lead(veth) {
        await ip([], [`rule add pref 1000 iif ${veth} lookup ${table}`]);
        setting(veth, "forwarding", "1");
      },
      async [Symbol.asyncDispose]() {
        wires.beside[Symbol.dispose]();
        wires.away[Symbol.dispose]();
        await close();
      },
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function setting(link: string, name: string, value: string): void {
  writeFileSync(`/proc/sys/net/ipv4/conf/${link}/${name}`, value, { flag: "r+" });
}
