/** Packets as bytes, with the checksums that a kernel wants. */

const PROTOCOL = { icmp: 1, tcp: 6, udp: 17 } as const;
const ETHERTYPE = { ipv4: 0x0800, arp: 0x0806, ipv6: 0x86dd } as const;

interface Ends {
  readonly from: string;
  readonly to: string;
}

export function udpPacket({ from, to, port }: Ends & { readonly port: number }, text: string): Uint8Array {
  const payload = new TextEncoder().encode(text);
  const datagram = new Uint8Array(8 + payload.length);
  const view = new DataView(datagram.buffer);
  view.setUint16(0, 40_000);
  view.setUint16(2, port);
  view.setUint16(4, datagram.length);
  datagram.set(payload, 8);
  return ipv4({ from, to }, PROTOCOL.udp, datagram);
}

export function tcpSyn({ from, to, port }: Ends & { readonly port: number }): Uint8Array {
  const segment = new Uint8Array(20);
  const view = new DataView(segment.buffer);
  // Never the same connection twice: what is half open is answered for a while.
  view.setUint16(0, 1024 + Math.floor(Math.random() * 60_000));
  view.setUint16(2, port);
  view.setUint32(4, 1);
  view.setUint16(12, 0x5002);
  view.setUint16(14, 64_000);
  const pseudo = new Uint8Array([
    ...octets(from),
    ...octets(to),
    0,
    PROTOCOL.tcp,
    0,
    segment.length,
    ...segment,
  ]);
  view.setUint16(16, checksum(pseudo));
  return ipv4({ from, to }, PROTOCOL.tcp, segment);
}

export function icmpEcho(ends: Ends): Uint8Array {
  const message = new Uint8Array([8, 0, 0, 0, 0x12, 0x34, 0, 1]);
  new DataView(message.buffer).setUint16(2, checksum(message));
  return ipv4(ends, PROTOCOL.icmp, message);
}

/** An ICMPv6 echo request from one link-local address to all of a link's nodes. */
export function ipv6Echo(): Uint8Array {
  const from = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
  const to = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
  const message = new Uint8Array([128, 0, 0, 0, 0x12, 0x34, 0, 1]);
  const pseudo = new Uint8Array([...from, ...to, 0, 0, 0, message.length, 0, 0, 0, 58, ...message]);
  new DataView(message.buffer).setUint16(2, checksum(pseudo));
  return new Uint8Array([0x60, 0, 0, 0, 0, message.length, 58, 255, ...from, ...to, ...message]);
}

export function frame(
  macs: { readonly from: Uint8Array; readonly to: Uint8Array },
  packet: Uint8Array,
): Uint8Array {
  const bytes = new Uint8Array(14 + packet.length);
  bytes.set(macs.to);
  bytes.set(macs.from, 6);
  const kind = (packet[0] ?? 0) >> 4 === 6 ? ETHERTYPE.ipv6 : ETHERTYPE.ipv4;
  new DataView(bytes.buffer).setUint16(12, kind);
  bytes.set(packet, 14);
  return bytes;
}

/** "udp 10.0.0.1 10.0.0.2", "icmp …", "tcp …", "arp 10.0.0.2" for whom is asked, "ipv6": what a frame is, for what is looked for. */
export function describe(bytes: Uint8Array): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const kind = view.getUint16(12);
  if (kind === ETHERTYPE.ipv6) return "ipv6";
  if (kind === ETHERTYPE.arp) return `arp ${bytes.slice(38, 42).join(".")}`;
  if (kind !== ETHERTYPE.ipv4) return `0x${kind.toString(16)}`;
  const name = Object.entries(PROTOCOL).find(([, number]) => number === bytes[23])?.[0] ?? "other";
  return `${name} ${bytes.slice(26, 30).join(".")} ${bytes.slice(30, 34).join(".")}`;
}

function ipv4({ from, to }: Ends, protocol: number, payload: Uint8Array): Uint8Array {
  const packet = new Uint8Array(20 + payload.length);
  const view = new DataView(packet.buffer);
  packet.set([0x45, 0]);
  view.setUint16(2, packet.length);
  packet.set([64, protocol], 8);
  packet.set(octets(from), 12);
  packet.set(octets(to), 16);
  view.setUint16(10, checksum(packet.subarray(0, 20)));
  packet.set(payload, 20);
  return packet;
}

function checksum(bytes: Uint8Array): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return ~sum & 0xffff;
}

const octets = (address: string) => address.split(".").map(Number);
