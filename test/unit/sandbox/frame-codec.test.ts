import { describe, expect, test } from "bun:test";
import { FrameType, HEADER_BYTES, MAX_DATA_BYTES } from "../../../src/protocol/frames.ts";
import {
  encodeKill,
  encodeRun,
  FrameDecoder,
  FrameError,
  FROM_INIT,
  type FrameRule,
} from "../../../src/sandbox/frame-codec.ts";
import { amount } from "../../fixtures/amount.ts";
import { frame, readyFrame, TO_INIT } from "../../fixtures/fake-init.ts";
import { seededRandom } from "../../fixtures/random.ts";

interface Frame {
  type: number;
  call: number;
  payload: Uint8Array;
}

/** Decodes the stream cut at the given places, and puts streamed payloads together again. */
function decode(rules: ReadonlyMap<number, FrameRule>, chunks: Uint8Array[]): Frame[] {
  const frames: Frame[] = [];
  let open: Frame | undefined;
  const decoder = new FrameDecoder(rules, (type, call, payload, last) => {
    open ??= { type, call, payload: new Uint8Array(0) };
    open.payload = Buffer.concat([open.payload, payload]);
    expect([type, call]).toEqual([open.type, open.call]);
    if (last) {
      frames.push(open);
      open = undefined;
    }
  });
  for (const chunk of chunks) decoder.push(chunk);
  return frames;
}

function cut(bytes: Uint8Array, random: ReturnType<typeof seededRandom>, longest: number): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const size = 1 + random.int(longest);
    chunks.push(bytes.subarray(at, at + size));
    at += size;
  }
  return chunks;
}

describe("encodeRun", () => {
  test("a call without stdin is one RUN frame", () => {
    const [run, ...rest] = decode(TO_INIT, [
      encodeRun(7, { command: "echo hé", stdin: undefined, outputCap: 0x01020304 }),
    ]);
    expect(rest).toEqual([]);
    expect(run).toMatchObject({ type: FrameType.Run, call: 7 });
    expect([...run!.payload.subarray(0, 8)]).toEqual([4, 3, 2, 1, 0, 0, 0, 0]);
    expect(Buffer.from(run!.payload.subarray(8)).toString()).toBe("echo hé");
  });

  test.each([0, 1, MAX_DATA_BYTES, MAX_DATA_BYTES + 1, 1024 * 1024])(
    "stdin of %d bytes arrives whole, and ends",
    (size) => {
      const stdin = seededRandom(size).bytes(size);
      const [run, ...input] = decode(TO_INIT, [encodeRun(1, { command: "cat", stdin, outputCap: 1 })]);
      expect(run!.payload[4]).toBe(1);
      expect(input.every(({ type }) => type === FrameType.Stdin)).toBe(true);
      expect(input.map(({ payload }) => payload.length).indexOf(0)).toBe(input.length - 1);
      expect(Buffer.concat(input.map(({ payload }) => payload)).equals(stdin)).toBe(true);
    },
  );

  test("KILL has no payload", () => {
    expect(decode(TO_INIT, [encodeKill(0xfffffffe)])).toEqual([
      { type: FrameType.Kill, call: 0xfffffffe, payload: Buffer.alloc(0) },
    ]);
  });
});

describe("FrameDecoder", () => {
  test("hands output on as views of the chunk, without a copy", () => {
    const chunk = frame(FrameType.Stdout, 3, Buffer.from("hi"));
    const seen: Uint8Array[] = [];
    new FrameDecoder(FROM_INIT, (_type, _call, payload) => seen.push(payload)).push(chunk);
    expect(seen.map(({ buffer, byteOffset }) => [buffer === chunk.buffer, byteOffset])).toEqual([
      [true, HEADER_BYTES],
    ]);
  });

  test.each<[string, Uint8Array]>([
    ["an unknown type", frame(99, 1)],
    ["a type of the other direction", encodeKill(1)],
    ["a header with a spare byte set", Object.assign(readyFrame(), { 10: 1 })],
    ["an empty STDOUT", frame(FrameType.Stdout, 1)],
    ["a long STDERR", frame(FrameType.Stderr, 1, new Uint8Array(MAX_DATA_BYTES + 1))],
    ["a READY that is too long", frame(FrameType.Ready, 0, new Uint8Array(5))],
    ["an EXIT that is too short", frame(FrameType.Exit, 1, new Uint8Array(7))],
    ["a length of 4 GiB", Uint8Array.of(255, 255, 255, 255, 1, 0, 0, 0, FrameType.Stdout, 0, 0, 0)],
  ])("refuses %s, and everything after it", (_what, bytes) => {
    const decoder = new FrameDecoder(FROM_INIT, () => {});
    decoder.push(readyFrame());
    expect(() => decoder.push(bytes)).toThrow(FrameError);
    expect(() => decoder.push(readyFrame())).toThrow(FrameError);
  });

  test("a throwing handler breaks it", () => {
    const decoder = new FrameDecoder(FROM_INIT, () => {
      throw new FrameError("not now");
    });
    expect(() => decoder.push(readyFrame())).toThrow("not now");
    expect(() => decoder.push(readyFrame())).toThrow("broken already");
  });
});

/** A valid stream from an init, with its frames. */
function randomStream(random: ReturnType<typeof seededRandom>): { frames: Frame[]; bytes: Uint8Array } {
  const frames = Array.from({ length: 1 + random.int(8) }, (): Frame => {
    const call = random.int(2 ** 32);
    switch (random.int(4)) {
      case 0:
        return { type: FrameType.Ready, call, payload: random.bytes(4) };
      case 1:
        return { type: FrameType.Exit, call, payload: random.bytes(8) };
      default:
        return {
          type: random.int(2) === 0 ? FrameType.Stdout : FrameType.Stderr,
          call,
          payload: random.bytes(1 + random.int(random.int(10) === 0 ? 2000 : 40)),
        };
    }
  });
  return {
    frames,
    bytes: Buffer.concat(frames.map(({ type, call, payload }) => frame(type, call, payload))),
  };
}

describe("random streams", () => {
  const base = Number(Bun.env["SEED"] ?? 1);
  const runs = process.env["COFFERDAM_TEST_LONG"] === "1" ? amount("STREAMS", 500_000) : 1_500;
  const timeoutMs = 10_000 + runs;

  test(
    `valid frames come out as they went in, however they are cut (seeds from ${base})`,
    () => {
      for (let seed = base; seed < base + runs; seed += 1) {
        const random = seededRandom(seed);
        const { frames, bytes } = randomStream(random);
        const seen = decode(FROM_INIT, cut(bytes, random, 1 + random.int(60)));
        if (!Bun.deepEquals(seen.map(plain), frames.map(plain))) throw new Error(`SEED=${seed}`);
      }
    },
    timeoutMs,
  );

  test(
    `garbage and mutated streams end in FrameError or nothing, within bounds (seeds from ${base})`,
    () => {
      let refused = 0;
      for (let seed = base; seed < base + runs; seed += 1) {
        const random = seededRandom(seed);
        const bytes =
          random.int(3) === 0
            ? random.bytes(random.int(200))
            : mutate(randomStream(random).bytes.slice(), random);
        const rules = random.int(2) === 0 ? FROM_INIT : TO_INIT;
        let handed = 0;
        const decoder = new FrameDecoder(rules, (type, _call, payload) => {
          handed += payload.length;
          if (payload.length > rules.get(type)!.maxBytes) throw new Error(`SEED=${seed}: too much at once`);
        });
        try {
          for (const chunk of cut(bytes, random, 1 + random.int(60))) decoder.push(chunk);
        } catch (error) {
          if (!(error instanceof FrameError)) throw new Error(`SEED=${seed}`, { cause: error });
          refused += 1;
        }
        if (handed > bytes.length) throw new Error(`SEED=${seed}: more came out than went in`);
      }
      // Else the mutations test nothing.
      expect(refused).toBeGreaterThan(runs / 4);
    },
    timeoutMs,
  );
});

function plain({ type, call, payload }: Frame): unknown[] {
  return [type, call, Buffer.from(payload).toString("hex")];
}

/** Flips, cuts, repeats and inserts: what a broken or hostile init may do to a good stream. */
function mutate(bytes: Uint8Array, random: ReturnType<typeof seededRandom>): Uint8Array {
  const at = random.int(bytes.length);
  switch (random.int(4)) {
    case 0:
      bytes[at] = random.int(256);
      return bytes;
    case 1:
      return Buffer.concat([
        bytes.subarray(0, at),
        bytes.subarray(Math.min(bytes.length, at + 1 + random.int(20))),
      ]);
    case 2:
      return Buffer.concat([bytes.subarray(0, at), random.bytes(1 + random.int(20)), bytes.subarray(at)]);
    default:
      return Buffer.concat([bytes, bytes.subarray(at)]);
  }
}
