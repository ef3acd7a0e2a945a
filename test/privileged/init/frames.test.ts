import { beforeAll, describe, expect, test } from "bun:test";
import {
  FrameType,
  InitExit,
  MAX_CALLS,
  MAX_COMMAND_BYTES,
  MAX_DATA_BYTES,
} from "../../../src/protocol/frames.ts";
import { InitSandbox, mountInitRoot, rawFrame, runPayload } from "../../fixtures/init-sandbox.ts";
import { seededRandom } from "../../fixtures/random.ts";

let root: string;

beforeAll(() => {
  root = mountInitRoot("/scratch/frames");
});

const patched = (bytes: Uint8Array, at: number, value: number) => {
  bytes[at] = value;
  return bytes;
};
const header = (length: number, call: number, type: number) => {
  const bytes = Buffer.alloc(12);
  bytes.writeUInt32LE(length, 0);
  bytes.writeUInt32LE(call, 4);
  bytes[8] = type;
  return bytes;
};
const running = rawFrame(FrameType.Run, 1, runPayload("sleep 100", { stdin: 1 }));
const deaf = rawFrame(FrameType.Run, 1, runPayload("sleep 100"));
const stdin = (bytes: number) => rawFrame(FrameType.Stdin, 1, new Uint8Array(bytes));

const bad: [string, Uint8Array[]][] = [
  ["a type that does not exist", [header(0, 1, 99)]],
  ["type 0", [header(0, 1, 0)]],
  ["a type of the other direction", [rawFrame(FrameType.Exit, 1, new Uint8Array(8))]],
  ["READY from api", [rawFrame(FrameType.Ready, 0, new Uint8Array(4))]],
  ["spare bytes in the header", [patched(rawFrame(FrameType.Run, 1, runPayload("true")), 10, 1)]],
  ["call 0", [rawFrame(FrameType.Run, 0, runPayload("true"))]],
  ["a RUN that is too short", [header(7, 1, FrameType.Run)]],
  ["a RUN that is too long", [header(8 + MAX_COMMAND_BYTES + 1, 1, FrameType.Run)]],
  ["the longest length there is", [header(0xffffffff, 1, FrameType.Run)]],
  ["a RUN with an unknown flag", [rawFrame(FrameType.Run, 1, runPayload("true", { stdin: 2 }))]],
  ["a RUN with spare bytes", [rawFrame(FrameType.Run, 1, runPayload("true", { pad: 1 }))]],
  ["a command with a NUL", [rawFrame(FrameType.Run, 1, runPayload("true\0"))]],
  ["a call twice", [running, running]],
  [
    "a call's number going back",
    [rawFrame(FrameType.Run, 7, runPayload("true")), rawFrame(FrameType.Run, 6, runPayload("true"))],
  ],
  ["STDIN for a call that never was", [rawFrame(FrameType.Stdin, 9, new Uint8Array(1))]],
  ["STDIN for a call that has none", [deaf, stdin(1)]],
  ["STDIN that is too long", [running, header(MAX_DATA_BYTES + 1, 1, FrameType.Stdin)]],
  ["STDIN after its end", [running, stdin(0), stdin(1)]],
  ["the end of STDIN twice", [running, stdin(0), stdin(0)]],
  [
    "more STDIN than a call may have",
    [running, ...Array.from({ length: 16 }, () => stdin(MAX_DATA_BYTES)), stdin(1)],
  ],
  ["KILL with a payload", [running, header(1, 1, FrameType.Kill)]],
  ["KILL for a call that never was", [rawFrame(FrameType.Kill, 3)]],
  [
    "more calls at once than there may be",
    Array.from({ length: MAX_CALLS + 1 }, (_, i) => rawFrame(FrameType.Run, i + 1, runPayload("sleep 100"))),
  ],
];

describe("a bad frame ends the sandbox", () => {
  for (const [name, frames] of bad) {
    test(name, async () => {
      const sandbox = await InitSandbox.ready(root);
      sandbox.send(Buffer.concat(frames));
      expect(await sandbox.exited).toBe(InitExit.BadFrame);
      expect(sandbox.log()).toContain("a bad frame");
    });
  }

  test("but the same frames in their right form do not", async () => {
    const sandbox = await InitSandbox.ready(root);
    const call = sandbox.startOpen("cat | wc -c");
    for (let i = 0; i < 16; i++) sandbox.input(call, "x".repeat(MAX_DATA_BYTES));
    sandbox.input(call, "");
    expect(await call.result).toMatchObject({ status: 0, stdout: `${1024 * 1024}\n` });
    sandbox.input(call, "late");
    sandbox.kill(call);
    const many = Array.from({ length: MAX_CALLS }, (_, i) => sandbox.run(`exit ${i}`));
    expect((await Promise.all(many)).map(({ status }) => status)).toEqual(many.map((_, i) => i));
    expect(await sandbox.close()).toBe(InitExit.Closed);
  });
});

test("random bytes end it too", async () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 2 ** 32);
  const random = seededRandom(seed);
  for (let round = 0; round < 5; round++) {
    const sandbox = await InitSandbox.ready(root);
    sandbox.send(random.bytes(200));
    expect([seed, await sandbox.exited]).toEqual([seed, InitExit.BadFrame]);
  }
});

test("half a frame and the end of the stream end it in order", async () => {
  const sandbox = await InitSandbox.ready(root);
  sandbox.send(rawFrame(FrameType.Run, 1, runPayload("echo hi")).subarray(0, 15));
  expect(await sandbox.close()).toBe(InitExit.Closed);
});

test("a frame may come byte by byte", async () => {
  const sandbox = await InitSandbox.ready(root);
  const call = sandbox.startOpen("cat");
  const frames = Buffer.concat([
    rawFrame(FrameType.Stdin, call.number, Buffer.from("slow")),
    rawFrame(FrameType.Stdin, call.number),
  ]);
  for (const byte of frames) {
    sandbox.send(Uint8Array.of(byte));
    await Bun.sleep(1);
  }
  expect(await call.result).toMatchObject({ stdout: "slow" });
  await sandbox.close();
});

test("wrong arguments are named", async () => {
  for (const args of [
    ["--nope", "1"],
    ["--nproc"],
    ["--nproc", "x"],
    ["--nproc", "0"],
    ["--spares", "9"],
    ["--tmp-mb", "99999999999"],
  ]) {
    const sandbox = await InitSandbox.boot(root, args);
    expect(await sandbox.exited).toBe(InitExit.Usage);
    expect(sandbox.log()).toContain(args[0] === "--nope" ? "--nope" : args.at(-1)!);
  }
});
