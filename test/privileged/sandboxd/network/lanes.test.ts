import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { withinNetwork } from "../../../../src/kernel/network-namespace.ts";
import { until } from "../../../fixtures/until.ts";
import { networkNames } from "../../../../src/sandboxd/network/names.ts";
import { tcpFrom, udpFrom } from "./sockets.ts";
import { hostState, newRun, PORT, sh, stage, useIptables } from "./stage.ts";

/** A far host with a public address, on one of the host's interfaces, and the host's own network on another. */
const FAR = { host: "8.8.4.1", address: "8.8.4.4" };
const LAN = { host: "192.168.9.1", neighbour: "192.168.9.2" };
const peers: string[] = [];
/** What was to arrive would have by then. */
const SETTLE_MS = 150;
const servers: { stop(now: boolean): void }[] = [];

beforeAll(() => {
  sh(`
    for net in far:${FAR.host}:${FAR.address} lan:${LAN.host}:${LAN.neighbour}; do
      IFS=: read -r name host address <<<"$net"
      ip netns add $name; ip link add \${name}0 type veth peer name eth0 netns $name
      ip addr add $host/24 dev \${name}0; ip link set \${name}0 up
      ip -n $name addr add $address/24 dev eth0; ip -n $name link set eth0 up; ip -n $name link set lo up
      ip -n $name route add default via $host
    done`);
  for (const netns of ["far", "lan"]) {
    for (const port of [5432, 5433]) {
      withinNetwork(`/run/netns/${netns}`, () => {
        const socket = {
          data() {},
          open: (peer: { remoteAddress: string }) => void peers.push(peer.remoteAddress),
        };
        servers.push(Bun.listen({ hostname: "0.0.0.0", port, socket }));
      });
    }
  }
  servers.push(Bun.listen({ hostname: "0.0.0.0", port: PORT, socket: { data() {} } }));
});
afterAll(() => {
  for (const server of servers) server.stop(true);
  sh("ip link del far0; ip link del lan0; ip netns del far; ip netns del lan");
});
afterEach(() => expect(forwarding()).toEqual({ all: "0", far0: "0", lan0: "0" }));

const forwarding = () =>
  Object.fromEntries(
    ["all", "far0", "lan0"].map((name) => [
      name,
      readFileSync(`/proc/sys/net/ipv4/conf/${name}/forwarding`, "utf8").trim(),
    ]),
  );

async function expectReached(netns: string, address: string, port: number): Promise<void> {
  using attempt = tcpFrom(netns, address, port);
  await until(() => attempt.arrived());
}

async function expectUnreached(netns: string, address: string, port: number): Promise<void> {
  using attempt = tcpFrom(netns, address, port);
  await Bun.sleep(SETTLE_MS);
  expect(attempt.arrived()).toBe(false);
}

/** As Docker and ufw leave them on a host where both are set up; what comes in at the gateway's port is Docker's to take. */
const OTHERS = `
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:DOCKER-FORWARD - [0:0]
:ufw-before-input - [0:0]
:ufw-reject-forward - [0:0]
-A INPUT -j ufw-before-input
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A FORWARD -j ufw-reject-forward
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -i lan0 -p tcp -m tcp --dport 4180 -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-reject-forward -j REJECT --reject-with icmp-port-unreachable
COMMIT
`;

test.each([
  { kind: "nft", inst: "0c01" },
  { kind: "legacy", inst: "0c02" },
] as const)(
  "beside Docker and ufw, with all dropped by default, a lane is one run's and one port's (iptables-$kind)",
  async ({ kind, inst }) => {
    useIptables(kind);
    await Bun.write("/tmp/others", OTHERS);
    sh("iptables-restore </tmp/others");
    const before = hostState();
    const policies = () => sh("iptables-save | grep -E '^:(INPUT|FORWARD)' | sed 's/ .0.*//; s/ .[0-9].*//'");
    const policiesBefore = policies();
    const { networks, open, instance, log } = stage({ inst });
    const [one, two] = [newRun(), newRun()];
    const [near, beside] = [one, two].map((run) => networkNames(instance.inst, run).netns) as [
      string,
      string,
    ];
    const gateway = (await networks.ensure(one)).host;
    await networks.ensure(two);
    await expectReached(near, gateway, PORT);
    // A tenant could fill the host's table of connections, which others need, with calls to the gateway.
    const tracked = () => Number(readFileSync("/proc/sys/net/netfilter/nf_conntrack_count", "utf8"));
    const trackedBefore = tracked();
    for (let call = 0; call < 20; call++) await expectReached(near, gateway, PORT);
    expect(tracked()).toBeLessThanOrEqual(trackedBefore);
    for (let call = 0; call < 20; call++) await expectReached("lan", LAN.host, PORT);
    expect(tracked()).toBeGreaterThanOrEqual(trackedBefore + 20);
    await expectUnreached(near, FAR.address, 5432);
    expect(sh("iptables-save -t nat | grep -c CD0c || true")).toBe("0");

    await networks.openLanes(one, [{ address: FAR.address, port: 5432 }]);
    peers.length = 0;
    await expectReached(near, FAR.address, 5432);
    await until(() => peers.length > 0);
    expect(peers).toEqual([FAR.host]);
    await expectUnreached(near, FAR.address, 5433);
    await expectUnreached(near, LAN.neighbour, 5432);
    await expectUnreached(beside, FAR.address, 5432);
    await expectReached(near, gateway, PORT);

    // The host's table of connections is everybody's, however many lanes a run has.
    const ports = Array.from({ length: 10 }, (_, at) => 6000 + at);
    await networks.openLanes(
      one,
      ports.map((port) => ({ address: FAR.address, port })),
    );
    const untouched = tracked();
    const start = performance.now();
    sh(`ip netns exec ${near} bash -c '
      for port in ${ports.join(" ")}; do for i in {1..30}; do echo x >/dev/udp/${FAR.address}/$port; done; done'`);
    const most = 100 + (20 * (performance.now() - start)) / 1000;
    expect(tracked() - untouched).toBeGreaterThan(50);
    expect(tracked() - untouched).toBeLessThanOrEqual(most + 1);
    await networks.openLanes(one, [{ address: FAR.address, port: 5432 }]);
    await Bun.sleep(100);

    // What iptables-save shows of what was written is known as that.
    await networks.reconcile(() => true);
    expect(log.join("")).not.toContain("there again");

    // After a restart, and someone's flush of all rules.
    const next = open();
    await next.list();
    sh(
      "iptables -t nat -F POSTROUTING; iptables -F OUTPUT; iptables -F FORWARD; iptables -A FORWARD -j ufw-reject-forward",
    );
    await expectUnreached(near, FAR.address, 5432);
    await next.reconcile(() => true);
    expect(log.join("")).toContain("there again");
    await expectReached(near, FAR.address, 5432);
    await expectUnreached(beside, FAR.address, 5432);

    await next.openLanes(one, []);
    await expectUnreached(near, FAR.address, 5432);
    await next.openLanes(two, [{ address: FAR.address, port: 5432 }]);
    await expectReached(beside, FAR.address, 5432);
    await next.remove(one);
    await next.remove(two);
    sh("iptables -F; iptables -X; iptables -t nat -F; iptables -t nat -X; iptables-restore </tmp/others");
    expect({ state: hostState(), policies: policies() }).toEqual({ state: before, policies: policiesBefore });
    sh(
      "iptables -P INPUT ACCEPT; iptables -P FORWARD ACCEPT; iptables -F; iptables -X; iptables -t nat -F; iptables -t nat -X",
    );
  },
  90_000,
);

test("a host that forwards nothing becomes a router for nobody but the run", async () => {
  useIptables("nft");
  const { networks, instance } = stage({ inst: "0c03" });
  const run = newRun();
  const { netns } = networkNames(instance.inst, run);
  await networks.ensure(run);
  await networks.openLanes(run, [{ address: FAR.address, port: 5432 }]);
  await expectReached(netns, FAR.address, 5432);
  expect(forwarding()).toEqual({ all: "0", far0: "1", lan0: "0" });
  const arrived: string[] = [];
  const socket = { data: (_: unknown, bytes: Buffer) => void arrived.push(bytes.toString()) };
  const listening: { udp?: Promise<{ close(): void }> } = {};
  withinNetwork("/run/netns/lan", () => {
    listening.udp = Bun.udpSocket({ hostname: "0.0.0.0", port: 5353, socket });
  });
  const udp = await listening.udp;
  const throughHost = async () => {
    using _ = udpFrom("far", LAN.neighbour, 5353);
    await Bun.sleep(SETTLE_MS);
    return arrived.splice(0).length;
  };
  expect(await throughHost()).toBe(0);
  sh("iptables -D CD0c03-FWD -i far0 -j DROP");
  await until(async () => (await throughHost()) > 0);
  await networks.reconcile(() => true);
  expect(await throughHost()).toBe(0);
  udp?.close();
  await networks.remove(run);
});

test("only an address that anyone may dial becomes a lane", async () => {
  const { networks } = stage({ inst: "0c04", egress: { allow_private: ["192.168.9.0/24", "10.0.0.0/8"] } });
  const run = newRun();
  const { host } = await networks.ensure(run);
  const lane = (address: string) => networks.openLanes(run, [{ address, port: 5432 }]);
  for (const [address, what] of [
    [FAR.host, "an address of this host itself"],
    [LAN.host, "an address of this host itself"],
    [host, "an address of a run"],
    ["10.42.9.2", "an address of a run"],
    ["127.0.0.1", "a loopback address"],
    ["169.254.169.254", "a link-local address"],
    ["172.16.0.1", "a private network, which only the operator can allow, by [egress] allow_private"],
  ] as const) {
    expect(lane(address)).rejects.toThrow(what);
  }
  await lane(LAN.neighbour);
  await networks.remove(run);
  expect(lane(LAN.neighbour)).rejects.toThrow("has no network");
});
