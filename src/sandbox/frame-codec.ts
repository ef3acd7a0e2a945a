import { FrameType, HEADER_BYTES, MAX_DATA_BYTES } from "../protocol/frames.ts";

/** The other end sent what src/protocol/frames.ts does not allow. The connection can only be ended. */
export class FrameError extends Error {
  override readonly name = "FrameError";
}

/** How a receiver takes one type of frame. */
export interface FrameRule {
  readonly minBytes: number;
  readonly maxBytes: number;
  /** true: the payload is handed on as it arrives, in pieces that are views of the chunk; false: whole. */
  readonly streamed: boolean;
}

/** `last` is false when more of the same frame's payload follows. */
export type FrameHandler = (type: number, call: number, payload: Uint8Array, last: boolean) => void;

/** What api takes from an init. */
export const FROM_INIT: ReadonlyMap<number, FrameRule> = new Map([
  [FrameType.Ready, { minBytes: 4, maxBytes: 4, streamed: false }],
  [FrameType.Stdout, { minBytes: 1, maxBytes: MAX_DATA_BYTES, streamed: true }],
  [FrameType.Stderr, { minBytes: 1, maxBytes: MAX_DATA_BYTES, streamed: true }],
  [FrameType.Exit, { minBytes: 8, maxBytes: 8, streamed: false }],
]);

const EMPTY = new Uint8Array(0);

/**
 * Cuts a byte stream into frames. It keeps at most one header and one payload of a type that is not streamed,
 * allocates nothing that its rules do not bound, and throws nothing but FrameError (and what the handler throws);
 * after a throw it takes no more bytes.
 */
export class FrameDecoder {
  readonly #rules: ReadonlyMap<number, FrameRule>;
  readonly #onFrame: FrameHandler;
  /** A header that is split over chunks is put together here. */
  readonly #header = new Uint8Array(HEADER_BYTES);
  #headerHas = 0;
  #rule: FrameRule | undefined;
  #type = 0;
  #call = 0;
  /** Payload bytes of the current frame that have not arrived yet. */
  #left = 0;
  /** Where a split payload that must be handed on whole is put together. */
  #held: Uint8Array | undefined;
  #broken = false;

  constructor(rules: ReadonlyMap<number, FrameRule>, onFrame: FrameHandler) {
    this.#rules = rules;
    this.#onFrame = onFrame;
  }

  push(chunk: Uint8Array): void {
    if (this.#broken) throw new FrameError("the stream is broken already");
    // Set while working, so that a throw from anywhere below leaves it set.
    this.#broken = true;
    let at = 0;
    while (at < chunk.length) {
      at = this.#rule === undefined ? this.#takeHeader(chunk, at) : this.#takePayload(chunk, at, this.#rule);
    }
    this.#broken = false;
  }

  #takeHeader(chunk: Uint8Array, at: number): number {
    if (this.#headerHas === 0 && chunk.length - at >= HEADER_BYTES) {
      this.#startFrame(chunk, at);
      return at + HEADER_BYTES;
    }
    const count = Math.min(HEADER_BYTES - this.#headerHas, chunk.length - at);
    this.#header.set(chunk.subarray(at, at + count), this.#headerHas);
    this.#headerHas += count;
    if (this.#headerHas === HEADER_BYTES) {
      this.#headerHas = 0;
      this.#startFrame(this.#header, 0);
    }
    return at + count;
  }

  #startFrame(bytes: Uint8Array, at: number): void {
    const length = readU32(bytes, at);
    const type = bytes[at + 8] ?? 0;
    const rule = this.#rules.get(type);
    if (rule === undefined) throw new FrameError(`no frame of type ${type} is allowed here`);
    if (bytes[at + 9] !== 0 || bytes[at + 10] !== 0 || bytes[at + 11] !== 0) {
      throw new FrameError("the spare bytes of a header are not zero");
    }
    if (length < rule.minBytes || length > rule.maxBytes) {
      throw new FrameError(`a frame of type ${type} cannot have ${length} bytes`);
    }
    this.#type = type;
    this.#call = readU32(bytes, at + 4);
    this.#left = length;
    if (length === 0) this.#onFrame(type, this.#call, EMPTY, true);
    else this.#rule = rule;
  }

  #takePayload(chunk: Uint8Array, at: number, rule: FrameRule): number {
    const count = Math.min(this.#left, chunk.length - at);
    const piece = chunk.subarray(at, at + count);
    const whole = this.#held === undefined && count === this.#left;
    if (rule.streamed || whole) {
      this.#finish(count, piece);
    } else {
      const length = this.#held?.length ?? this.#left;
      this.#held ??= new Uint8Array(length);
      this.#held.set(piece, length - this.#left);
      if (count === this.#left) this.#finish(count, this.#held);
      else this.#left -= count;
    }
    return at + count;
  }

  #finish(count: number, payload: Uint8Array): void {
    this.#left -= count;
    const last = this.#left === 0;
    if (last) {
      this.#rule = undefined;
      this.#held = undefined;
    }
    this.#onFrame(this.#type, this.#call, payload, last);
  }
}

export function readU32(bytes: Uint8Array, at: number): number {
  return (
    ((bytes[at] ?? 0) |
      ((bytes[at + 1] ?? 0) << 8) |
      ((bytes[at + 2] ?? 0) << 16) |
      ((bytes[at + 3] ?? 0) << 24)) >>>
    0
  );
}

function writeU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value & 255;
  bytes[at + 1] = (value >>> 8) & 255;
  bytes[at + 2] = (value >>> 16) & 255;
  bytes[at + 3] = value >>> 24;
}

export function writeHeader(bytes: Uint8Array, at: number, length: number, call: number, type: number): void {
  writeU32(bytes, at, length);
  writeU32(bytes, at + 4, call);
  bytes[at + 8] = type;
}

export interface RunRequest {
  /** The caller has checked it against MAX_COMMAND_BYTES. */
  readonly command: string;
  /** undefined: /dev/null. The caller has checked it against MAX_STDIN_BYTES. */
  readonly stdin: Uint8Array | undefined;
  /** Bytes of stdout, and of stderr, before the rest is dropped. */
  readonly outputCap: number;
}

/** All that starts one call, in one buffer, so that the usual call is one write: RUN, its STDIN pieces, the input's end. */
export function encodeRun(call: number, { command, stdin, outputCap }: RunRequest): Uint8Array {
  const commandBytes = Buffer.byteLength(command);
  const runBytes = HEADER_BYTES + 8 + commandBytes;
  const pieces = stdin === undefined ? 0 : Math.ceil(stdin.length / MAX_DATA_BYTES) + 1;
  const frames = new Uint8Array(runBytes + pieces * HEADER_BYTES + (stdin?.length ?? 0));
  writeHeader(frames, 0, 8 + commandBytes, call, FrameType.Run);
  writeU32(frames, HEADER_BYTES, outputCap);
  frames[HEADER_BYTES + 4] = stdin === undefined ? 0 : 1;
  new TextEncoder().encodeInto(command, frames.subarray(HEADER_BYTES + 8, runBytes));
  if (stdin === undefined) return frames;

  let at = runBytes;
  for (let from = 0; from < stdin.length; from += MAX_DATA_BYTES) {
    const piece = stdin.subarray(from, from + MAX_DATA_BYTES);
    writeHeader(frames, at, piece.length, call, FrameType.Stdin);
    frames.set(piece, at + HEADER_BYTES);
    at += HEADER_BYTES + piece.length;
  }
  writeHeader(frames, at, 0, call, FrameType.Stdin);
  return frames;
}

export function encodeKill(call: number): Uint8Array {
  const frame = new Uint8Array(HEADER_BYTES);
  writeHeader(frame, 0, 0, call, FrameType.Kill);
  return frame;
}
