import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { withinNetwork } from "../../../../src/kernel/network-namespace.ts";
import { until } from "../../../fixtures/until.ts";
import { networkNames } from "../../../../src/sandboxd/network/names.ts";
import { icmpEcho, ipv6Echo, tcpSyn } from "../../../../src/prove/frames.ts";
import { wireOf, type Wire } from "../../../../src/prove/wire.ts";
import { tcpFrom, udpFrom, type Attempt } from "./sockets.ts";
import { hostState, newRun, PORT, sh, stage, useIptables } from "./stage.ts";

/**
 * Every attack is made twice: with the walls it must fail, and without them it must succeed, else it would prove nothing.
 * The host is as unguarded as it can be: it forwards packets, and what listens on it does so at every address.
 */
const HOST_PORT = 8081;
const SETTLE_MS = 200;
const METADATA = "169.254.169.254";
/** The host on a network with a neighbour, which sends what is for runs to it. */
const LAN = { host: "192.0.2.1", neighbour: "192.0.2.2" };

describe.each([
  { kind: "nft", inst: "0a01" },
  { kind: "legacy", inst: "0a02" },
] as const)("iptables-$kind", ({ kind, inst }) => {
  const { networks, instance } = stage({ inst });
  const [one, two] = [newRun(), newRun()];
  const names = { one: networkNames(instance.inst, one), two: networkNames(instance.inst, two) };
  const near = names.one.netns;
  const before = { state: {} };
  const open: Disposable[] = [];

  beforeAll(async () => {
    useIptables(kind);
    sh(`
      echo 1 >/proc/sys/net/ipv4/ip_forward
      ip netns add lan; ip link add lan0 type veth peer name eth0 netns lan
      ip addr add ${LAN.host}/24 dev lan0; ip link set lan0 up
      ip -n lan addr add ${LAN.neighbour}/24 dev eth0; ip -n lan link set eth0 up; ip -n lan link set lo up
      ip -n lan route add default via ${LAN.host}
      ip addr add ${METADATA}/32 dev lo`);
    before.state = hostState();
    await networks.ensure(one);
    await networks.ensure(two);
    listen("0.0.0.0", PORT);
    listen("0.0.0.0", PORT + 1);
    listen("0.0.0.0", HOST_PORT);
    listen("0.0.0.0", 80);
    open.push(await answerDatagrams(53), await answerDatagrams(5353));
    for (const netns of [names.one.netns, names.two.netns, "lan"]) {
      withinNetwork(`/run/netns/${netns}`, () => listen("0.0.0.0", 9000));
    }
  });

  afterAll(async () => {
    for (const each of open) each[Symbol.dispose]();
    sh("ip link del lan0; ip netns del lan; ip addr del 169.254.169.254/32 dev lo");
  });

  function listen(hostname: string, port: number): void {
    const server = Bun.listen({ hostname, port, socket: { data() {} } });
    open.push({ [Symbol.dispose]: () => server.stop(true) });
  }

  /** The kernel asks for an address it does not know, and remembers for a while that nobody answered. */
  const hosts = { last: 100 };
  const nextHost = () => ++hosts.last;

  const attacks: Record<string, () => Attempt> = {
    "a port of the host, at its own gateway's address": () => tcpFrom(near, "10.42.0.1", HOST_PORT),
    "a port of the host, at its address on the network": () => tcpFrom(near, LAN.host, HOST_PORT),
    "the gateway's port at the host's address": () => tcpFrom(near, LAN.host, PORT),
    "a neighbour's gateway": () => tcpFrom(near, "10.42.1.1", PORT),
    "a neighbour's web proxy": () => tcpFrom(near, "10.42.1.1", PORT + 1),
    "another run": () => tcpFrom(near, "10.42.1.2", 9000),
    "the host's neighbour": () => tcpFrom(near, LAN.neighbour, 9000),
    "the metadata service": () => tcpFrom(near, METADATA, 80),
    "DNS at the gateway": () => udpFrom(near, "10.42.0.1", 53),
    "DNS over TCP": () => tcpFrom(near, LAN.host, 80),
    "some UDP port": () => udpFrom(near, LAN.host, 5353),
    "a gateway, from the host's network": () => tcpFrom("lan", "10.42.0.1", PORT),
    "a port of the host at a gateway's address, from its network": () =>
      tcpFrom("lan", "10.42.0.1", HOST_PORT),
    "a run, from the host's network": () => tcpFrom("lan", "10.42.0.2", 9000),
    "a run, from the host itself": () => tcpFrom(null, "10.42.0.2", 9000),
    "a ping of the gateway": () =>
      onWire((wire) => wire.send(icmpEcho({ from: "10.42.0.2", to: "10.42.0.1" })), {
        answer: "icmp 10.42.0.1 10.42.0.2",
      }),
    "a frame with another run's address": () =>
      onWire((wire) => wire.send(tcpSyn({ from: "10.42.1.2", to: "10.42.0.1", port: PORT })), {
        answer: "tcp 10.42.0.1 10.42.1.2",
        at: names.two,
      }),
    "a frame with an address of the same network": () => {
      const from = `10.42.0.${nextHost()}`;
      return onWire((wire) => wire.send(tcpSyn({ from, to: "10.42.0.1", port: PORT })), {
        answer: `arp ${from}`,
      });
    },
    "a frame with an address of the host's network": () => {
      const from = `192.0.2.${nextHost()}`;
      return onWire((wire) => wire.send(tcpSyn({ from, to: "10.42.0.1", port: PORT })), { askedOnLan: from });
    },
    IPv6: () => onWire((wire) => wire.send(ipv6Echo()), { answer: "ipv6" }),
  };
  const controls: Record<string, () => Attempt> = {
    "its own gateway": () => tcpFrom(near, "10.42.0.1", PORT),
    "its own web proxy": () => tcpFrom(near, "10.42.0.1", PORT + 1),
    "a frame with its own address": () =>
      onWire((wire) => wire.send(tcpSyn({ from: "10.42.0.2", to: "10.42.0.1", port: PORT })), {
        answer: "tcp 10.42.0.1 10.42.0.2",
      }),
    "the host's port, from its network": () => tcpFrom("lan", LAN.host, HOST_PORT),
  };

  function onWire(
    act: (wire: Wire) => void,
    { answer, at = names.one, askedOnLan }: { answer?: string; at?: typeof names.one; askedOnLan?: string },
  ): Attempt {
    const sender = wireOf(names.one.netns, names.one.veth);
    const listener = wireOf(at.netns, at.veth);
    act(sender);
    const seen: string[] = [];
    return {
      arrived() {
        if (askedOnLan !== undefined) return sh("ip neigh show dev lan0").includes(askedOnLan);
        seen.push(...listener.seen());
        return answer !== undefined && seen.includes(answer);
      },
      [Symbol.dispose]() {
        sender[Symbol.dispose]();
        listener[Symbol.dispose]();
      },
    };
  }

  async function expectArrivals(
    these: Record<string, () => Attempt>,
    expected: readonly string[],
  ): Promise<void> {
    const attempts = Object.entries(these).map(([name, start]) => ({ name, attempt: start() }));
    const arrived = () => attempts.filter(({ attempt }) => attempt.arrived()).map(({ name }) => name);
    // What is to arrive may take its time, and what is not has a moment more.
    await until(() => expected.every((name) => arrived().includes(name))).catch(() => {});
    await Bun.sleep(SETTLE_MS);
    expect(arrived()).toEqual([...expected]);
    for (const { attempt } of attempts) attempt[Symbol.dispose]();
  }

  test("no attack gets through, and what is allowed does", async () => {
    await expectArrivals(attacks, []);
    await expectArrivals(controls, Object.keys(controls));
  });

  test("what was dropped is counted by what it was", async () => {
    const drops = new Map((await networks.drops(one)).map(({ reason, packets }) => [reason, packets]));
    expect(drops.get("forged")).toBe(3);
    expect([...drops.keys()].toSorted()).toEqual(["dns", "forged", "metadata", "neighbour", "other"]);
    expect(await networks.drops(two)).toEqual([]);
  });

  test("the first wall needs no second", async () => {
    sh("iptables -F INPUT; iptables -F FORWARD; iptables -F OUTPUT");
    await expectArrivals(attacks, []);
    await networks.reconcile((run) => [one, two].includes(run));
  });

  test("without the first one, the second and the kernel's own checks keep a run from the host and from others", async () => {
    sh("iptables -t raw -F PREROUTING");
    await expectArrivals(attacks, [
      "a neighbour's gateway",
      "a neighbour's web proxy",
      "a gateway, from the host's network",
      "a port of the host at a gateway's address, from its network",
      "a frame with an address of the same network",
    ]);
    await networks.reconcile((run) => [one, two].includes(run));
  });

  test("where all.rp_filter makes the check of a pair's loose, forged packets die at the first wall alone", async () => {
    const before = sh("cat /proc/sys/net/ipv4/conf/all/rp_filter");
    sh("echo 2 >/proc/sys/net/ipv4/conf/all/rp_filter");
    await expectArrivals(attacks, []);
    await expectArrivals(controls, Object.keys(controls));
    sh("iptables -t raw -F PREROUTING");
    const forged = Object.entries(attacks).filter(([name]) => name.startsWith("a frame"));
    await expectArrivals(
      Object.fromEntries(forged),
      forged.map(([name]) => name),
    );
    await networks.reconcile((run) => [one, two].includes(run));
    sh(`echo ${before} >/proc/sys/net/ipv4/conf/all/rp_filter`);
  });

  test("with the walls down every one of these attacks gets through", async () => {
    sh(`
      iptables -t raw -F PREROUTING; iptables -F INPUT; iptables -F FORWARD; iptables -F OUTPUT
      for veth in ${names.one.veth} ${names.two.veth} lan0 all; do echo 0 >/proc/sys/net/ipv4/conf/$veth/rp_filter; done
      echo 0 >/proc/sys/net/ipv4/conf/${names.one.veth}/arp_ignore
      echo 0 >/proc/sys/net/ipv6/conf/${names.one.veth}/disable_ipv6
      ip addr add fe80::1/64 dev ${names.one.veth} nodad`);
    await expectArrivals(attacks, Object.keys(attacks));
  });

  test("rules that someone took away are put back", async () => {
    await networks.reconcile((run) => [one, two].includes(run));
    const { IPv6: _, ...byRules } = attacks;
    await expectArrivals(byRules, []);
    await expectArrivals(controls, Object.keys(controls));
  });

  test("nothing is left when the runs are gone", async () => {
    await networks.remove(one);
    await networks.remove(two);
    expect(hostState()).toEqual(before.state as never);
  });
});

async function answerDatagrams(port: number): Promise<Disposable> {
  const socket = await Bun.udpSocket({
    hostname: "0.0.0.0",
    port,
    socket: {
      data(self, bytes, from, address) {
        try {
          self.send(bytes, from, address);
        } catch {
          // The filter let the question in and not the answer out.
        }
      },
    },
  });
  return { [Symbol.dispose]: () => socket.close() };
}
