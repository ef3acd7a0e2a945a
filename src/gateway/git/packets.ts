/**
 * git's framing (gitprotocol-common): four hexadecimal digits of a length that counts them, then the payload. Lengths
 * below 4 are marks: 0000 ends a section, 0001 and 0002 are protocol v2's.
 */
const MAX_PACKET_BYTES = 65_520;
const LENGTH_DIGITS = 4;

export type Packet = {
  /** As it came. */
  readonly bytes: Buffer;
} & ({ readonly kind: "data"; readonly payload: Buffer } | { readonly kind: "flush" | "delimiter" | "end" });

const MARKS = ["flush", "delimiter", "end"] as const;

/** A stream that is not framed so: whoever reads on reads something else than the other side does. */
export class UnframedError extends Error {}

export interface PacketReader {
  add(chunk: Uint8Array): void;
  /** The next one, or null until more has been added. Throws an UnframedError. */
  next(): Packet | null;
  /** What was added and is no packet yet. */
  rest(): Buffer;
}

export function createPacketReader(): PacketReader {
  const held = { chunks: [] as Uint8Array[], size: 0, wanted: LENGTH_DIGITS };

  /** Joined only when it is a packet's whole, so that many small chunks are not copied again and again. */
  function joined(): Buffer {
    const [first = new Uint8Array(), ...others] = held.chunks;
    const whole =
      others.length === 0
        ? Buffer.from(first.buffer, first.byteOffset, first.length)
        : Buffer.concat(held.chunks);
    held.chunks = [whole];
    return whole;
  }

  function take(length: number): Buffer {
    const whole = joined();
    held.chunks = [whole.subarray(length)];
    held.size -= length;
    held.wanted = LENGTH_DIGITS;
    return whole.subarray(0, length);
  }

  return {
    add(chunk) {
      held.chunks.push(chunk);
      held.size += chunk.length;
    },
    next() {
      if (held.size < held.wanted) return null;
      const digits = joined().toString("latin1", 0, LENGTH_DIGITS);
      if (!/^[0-9a-f]{4}$/.test(digits)) throw new UnframedError(`${JSON.stringify(digits)} is no length`);
      const length = Number.parseInt(digits, 16);
      const kind = MARKS[length];
      if (kind !== undefined) return { kind, bytes: take(LENGTH_DIGITS) };
      if (length <= LENGTH_DIGITS || length > MAX_PACKET_BYTES) {
        throw new UnframedError(`a packet can't have length ${length}`);
      }
      if (held.size < length) {
        held.wanted = length;
        return null;
      }
      const bytes = take(length);
      return { kind: "data", bytes, payload: bytes.subarray(LENGTH_DIGITS) };
    },
    rest: joined,
  };
}

export const FLUSH: Buffer = Buffer.from("0000");

export function packet(...payload: readonly (string | Uint8Array)[]): Buffer {
  const bytes = Buffer.concat(payload.map((part) => Buffer.from(part as Uint8Array)));
  const length = bytes.length + LENGTH_DIGITS;
  if (bytes.length === 0 || length > MAX_PACKET_BYTES) throw new RangeError(`a packet of ${length} bytes`);
  return Buffer.concat([Buffer.from(length.toString(16).padStart(LENGTH_DIGITS, "0")), bytes]);
}
