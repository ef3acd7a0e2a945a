import { icmpEcho, ipv6Echo, tcpSyn, udpPacket } from "./frames.ts";
import type { Outside } from "./outside.ts";
import type { Wire } from "./wire.ts";

/** On a host's own wires an answer takes less than a millisecond; on one that is busy, as long as the controls' took. */
const SETTLE_MS = 200;
const PATIENCE_MS = 5_000;
const SLOWER = 3;
const LOOK_EVERY_MS = 20;
/** Besides those to the metadata services. */
const CONTROLS_AWAY = 6;

export const METADATA = ["169.254.169.254", "100.100.100.200"];
export const INTERNET = "8.8.8.8";
export const RESOLVER = "9.9.9.9";
/** Only for what is sent with an address that is not its sender's, and for pings. */
export const FAR = "8.8.4.4";
export const PINGED = "1.0.0.1";
export const STRANGER = "203.0.113.9";

interface End {
  readonly network: { readonly host: string; readonly run: string };
  readonly wire: Wire;
}

/** What came out on each wire, as `describe` says it. */
export interface Arrived {
  /** Before the attack, of what the machine beside the host sent: what a broken wall would let out. */
  readonly control: {
    readonly away: readonly string[];
    readonly beside: readonly string[];
    readonly attacker: readonly string[];
    readonly neighbour: readonly string[];
  };
  readonly attack: Arrived["control"];
  readonly ms: number;
  /** An address within the attacker's own network that nobody has. */
  readonly sibling: string;
}

/**
 * What no tenant can send, since gVisor makes its packets: frames on the attacker's own wire, sent from the host, and what
 * the host's neighbour sends. `meanwhile`: the attack from inside.
 */
export async function attackByWire(
  {
    outside: { beside, besideAddresses, away },
    attacker,
    neighbour,
    gatewayPort,
    hostPort,
  }: {
    readonly outside: Outside;
    readonly attacker: End;
    readonly neighbour: End;
    readonly gatewayPort: number;
    readonly hostPort: number;
  },
  meanwhile: () => Promise<void>,
): Promise<Arrived> {
  const wires = { away, beside, attacker: attacker.wire, neighbour: neighbour.wire };
  const seen = () => ({
    away: wires.away.seen(),
    beside: wires.beside.seen(),
    attacker: wires.attacker.seen(),
    neighbour: wires.neighbour.seen(),
  });
  const { own, host } = besideAddresses;
  const gateway = attacker.network.host;
  seen();
  const started = performance.now();

  // What the same frames do where nothing is in the way.
  for (const to of [...METADATA, INTERNET, RESOLVER, FAR]) beside.send(tcpSyn({ from: own, to, port: 443 }));
  for (const to of [INTERNET, RESOLVER]) beside.send(udpPacket({ from: own, to, port: 53 }, "ask"));
  beside.send(icmpEcho({ from: own, to: PINGED }));
  beside.send(tcpSyn({ from: own, to: host, port: hostPort }));
  beside.send(ipv6Echo());
  for (const { network, wire } of [attacker, neighbour])
    wire.send(tcpSyn({ from: network.run, to: network.host, port: gatewayPort }));
  const control = seen();
  const isComplete = () =>
    control.away.length >= METADATA.length + CONTROLS_AWAY &&
    [control.beside, control.attacker, control.neighbour].every((frames) =>
      frames.some((frame) => frame.startsWith("tcp ")),
    );
  while (!isComplete() && performance.now() - started < PATIENCE_MS) {
    await Bun.sleep(LOOK_EVERY_MS);
    for (const [where, frames] of Object.entries(seen()))
      control[where as keyof typeof control].push(...frames);
  }
  const settleMs = Math.max(SETTLE_MS, SLOWER * (performance.now() - started));
  await Bun.sleep(SETTLE_MS);
  for (const [where, frames] of Object.entries(seen()))
    control[where as keyof typeof control].push(...frames);

  await meanwhile();
  const from = attacker.network.run;
  const sibling = gateway.replace(/\d+$/, (last) => `${Number(last) + 76}`);
  const { wire } = attacker;
  for (const to of METADATA) wire.send(tcpSyn({ from, to, port: 80 }));
  wire.send(tcpSyn({ from, to: INTERNET, port: 443 }));
  wire.send(udpPacket({ from, to: RESOLVER, port: 53 }, "ask"));
  for (const to of [PINGED, gateway, neighbour.network.run, neighbour.network.host])
    wire.send(icmpEcho({ from, to }));
  for (const port of [gatewayPort, gatewayPort + 1, hostPort])
    wire.send(tcpSyn({ from, to: neighbour.network.host, port }));
  for (const to of [gateway, host]) wire.send(tcpSyn({ from, to, port: hostPort }));
  wire.send(tcpSyn({ from, to: neighbour.network.run, port: 7777 }));
  for (const forged of [sibling, neighbour.network.run, STRANGER, own, "127.0.0.1"])
    for (const to of [gateway, FAR, neighbour.network.run])
      wire.send(tcpSyn({ from: forged, to, port: gatewayPort }));
  wire.send(ipv6Echo());
  for (const port of [gatewayPort, gatewayPort + 1, hostPort])
    for (const { network } of [attacker, neighbour])
      beside.send(tcpSyn({ from: own, to: network.host, port }));
  for (const { network } of [attacker, neighbour])
    beside.send(tcpSyn({ from: own, to: network.run, port: 7777 }));
  beside.send(tcpSyn({ from, to: host, port: hostPort }));
  await Bun.sleep(settleMs);
  return { control, attack: seen(), sibling, ms: performance.now() - started };
}
