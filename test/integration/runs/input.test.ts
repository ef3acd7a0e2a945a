import { expect, test } from "bun:test";
import { closeSync, constants, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { runId, type RunId } from "../../../src/ids.ts";
import { codeOf } from "../../../src/errors.ts";
import { encodeData, encodeFrame, encodeLaunch, FrameType } from "../../../src/protocol/launch.ts";
import { createRunInput, StdinFull } from "../../../src/runs/input.ts";
import { createPlaces } from "../../../src/runs/output/place.ts";
import { instanceIn } from "../../fixtures/run-output.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { until } from "../../fixtures/until.ts";

const LAUNCH = {
  argv: ["bash", "-c", "x".repeat(20_000)],
  env: { A: "b" },
  cwd: "/work",
  stdin: true,
  processes: 5,
  fileBytes: 6,
};

function start(dir: string, patienceMs?: number) {
  const instance = instanceIn(dir);
  const input = createRunInput({ instance, ...(patienceMs === undefined ? {} : { patienceMs }) });
  const run = runId.make();
  createPlaces(instance).makeFifos(run);
  const fd = openSync(join(instance.sockets.runs, run, "in"), constants.O_RDWR | constants.O_NONBLOCK);
  /** As the init does; null when there is nothing. */
  function read(most = 65_536): Buffer | null {
    const bytes = Buffer.alloc(most);
    try {
      return bytes.subarray(0, readSync(fd, bytes));
    } catch (error) {
      if (codeOf(error) === "EAGAIN") return null;
      throw error;
    }
  }
  return { input, run, read, [Symbol.dispose]: () => (input.closeAll(), closeSync(fd)) };
}

/** The frames in a stream of them. */
function framesIn(bytes: Buffer): { type: number; payload: Buffer }[] {
  const frames = [];
  for (let at = 0; at < bytes.length;) {
    const length = bytes.readUInt16LE(at + 1);
    frames.push({ type: bytes.readUInt8(at), payload: bytes.subarray(at + 3, at + 3 + length) });
    at += 3 + length;
  }
  return frames;
}

test("a launch is its block between a reset and a start, and what follows is stdin", async () => {
  using scratch = scratchDirectory();
  using started = start(scratch.path);
  const { input, run, read } = started;
  await input.launch(run, LAUNCH);
  await input.write(run, Buffer.from("hello"));
  await input.write(run, Buffer.from("again"), 5);
  await input.eof(run);
  await input.signal(run, 15);
  const frames = framesIn(read() ?? Buffer.alloc(0));
  const block = frames.filter(({ type }) => type === FrameType.launch).map(({ payload }) => payload);
  expect(Buffer.concat(block).equals(encodeLaunch(LAUNCH))).toBe(true);
  const encoded = (frame: Uint8Array) => framesIn(Buffer.from(frame))[0]!;
  expect(frames.filter(({ type }) => type !== FrameType.launch)).toEqual([
    encoded(encodeFrame(FrameType.reset)),
    encoded(encodeFrame(FrameType.go)),
    encoded(encodeData(null, Buffer.from("hello"))),
    encoded(encodeData(5, Buffer.from("again"))),
    encoded(encodeFrame(FrameType.eof)),
    encoded(encodeFrame(FrameType.signal, Uint8Array.of(15))),
  ]);
});

test("more than the FIFO holds waits for the reader, and calls at once do not mix", async () => {
  using scratch = scratchDirectory();
  using started = start(scratch.path);
  const { input, run, read } = started;
  const calls = ["a", "b", "c"].map((letter) => Buffer.alloc(300_000, letter));
  const done = Promise.all(calls.map((bytes) => input.write(run, bytes)));
  const parts: Buffer[] = [];
  const over = done.then(() => true);
  // A reader that comes back now and then, and takes little.
  while (!(await Promise.race([over, Bun.sleep(1).then(() => false)]))) {
    for (let part = read(10_000); part !== null; part = read(10_000)) parts.push(part);
  }
  parts.push(read(100_000) ?? Buffer.alloc(0));
  const data = framesIn(Buffer.concat(parts)).map(({ payload }) => payload.subarray(8));
  expect(Buffer.concat(data).equals(Buffer.concat(calls))).toBe(true);
});

test("a signal does not wait for calls that write", async () => {
  using scratch = scratchDirectory();
  using started = start(scratch.path);
  const { input, run, read } = started;
  const bytes = crypto.getRandomValues(new Uint8Array(60_000));
  const calls = Array.from({ length: 5 }, () => input.write(run, bytes));
  // By now the FIFO is full.
  await Bun.sleep(10);
  const signalled = input.signal(run, 2);
  const parts: Buffer[] = [];
  const frames = () => framesIn(Buffer.concat(parts));
  await until(() => {
    for (let part = read(); part !== null; part = read()) parts.push(part);
    return frames().filter(({ type }) => type === FrameType.data).length === 5 * Math.ceil(60_000 / 4085);
  });
  await Promise.all([signalled, ...calls]);
  const types = frames().map(({ type }) => type);
  expect(types.indexOf(FrameType.signal)).toBeGreaterThan(0);
  expect(types.indexOf(FrameType.signal)).toBeLessThan(types.lastIndexOf(FrameType.data));
});

test("who writes to a command that does not read is told how much was taken", async () => {
  using scratch = scratchDirectory();
  using started = start(scratch.path, 50);
  const { input, run, read } = started;
  const bytes = crypto.getRandomValues(new Uint8Array(200_000)) as Uint8Array;
  const error = await input.write(run, bytes).catch((error: unknown) => error);
  if (!(error instanceof StdinFull)) throw error;
  expect(error.written).toBeGreaterThan(0);
  const data = framesIn(read(200_000) ?? Buffer.alloc(0)).map(({ payload }) => payload.subarray(8));
  expect(Buffer.concat(data).equals(bytes.subarray(0, error.written))).toBe(true);
});

test("an end that finds no room says that all before it was taken", async () => {
  using scratch = scratchDirectory();
  using started = start(scratch.path, 50);
  const { input, run } = started;
  // So many full frames that not one more byte has room.
  const full = await input.write(run, new Uint8Array(200_000)).catch((error: unknown) => error);
  if (!(full instanceof StdinFull)) throw full;
  const error = await input.eof(run, full.written).catch((error: unknown) => error);
  expect(error).toMatchObject({ code: "unavailable", written: full.written });
});

test("what comes behind the end is refused, also after a restart, and the end may be said again", async () => {
  using scratch = scratchDirectory();
  using started = start(scratch.path);
  const { input, run } = started;
  await input.write(run, Buffer.from("a"));
  await input.eof(run);
  await input.eof(run);
  using again = {
    input: createRunInput({ instance: instanceIn(scratch.path) }),
    [Symbol.dispose]: () => again.input.closeAll(),
  };
  for (const from of [input, again.input]) {
    expect(await from.write(run, Buffer.from("b")).catch((error: Error) => error.message)).toBe(
      "The run's stdin has had its end: nothing can follow it.",
    );
    // What the request itself had is sent again after a crash, and known by its place.
    await from.write(run, Buffer.from("a"), 0);
  }
});

test("calls beyond those that may wait are refused, and the end of the run ends those that wait", async () => {
  using scratch = scratchDirectory();
  using started = start(scratch.path);
  const { input, run } = started;
  const outcome = (call: Promise<unknown>) => call.then(() => "done", codeOf);
  const calls = Array.from({ length: 17 }, () => outcome(input.write(run, new Uint8Array(100_000))));
  expect(await calls[16]).toBe("unavailable");
  input.close(run);
  expect(await Promise.all(calls.slice(0, 16))).toEqual(Array.from({ length: 16 }, () => "conflict"));
  expect(await outcome(input.write("run-aaaaaaaaaa" as RunId, new Uint8Array(1)))).toBe("conflict");
});
