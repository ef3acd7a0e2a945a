import { expect, test } from "bun:test";
import { createRoom } from "../../../../src/gateway/llm/room.ts";
import { runId } from "../../../../src/ids.ts";
import { failureOf } from "../../../fixtures/failure.ts";

const request = (size: number) => new Request("http://x/", { method: "POST", body: new Uint8Array(size) });
const [one, other] = [runId.make(), runId.make()];

test("what is under way is bounded, of a run and of all, and comes back", async () => {
  const room = createRoom({ all: 185, ofRun: 100, sure: 20 });
  const first = await room.read(request(90), one);
  expect(first.bytes.length).toBe(90);
  expect(await failureOf(room.read(request(20), one))).toContain("Too many large requests");
  // A refused one holds nothing, and another run has room of its own.
  expect(room.bytes).toBe(90);
  const second = await room.read(request(90), other);
  const third = runId.make();
  expect(await failureOf(room.read(request(30), third))).toContain("Too many large requests");
  (await room.read(request(20), third))[Symbol.dispose]();
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  expect(room.bytes).toBe(90);
  (await room.read(request(80), one))[Symbol.dispose]();
  second[Symbol.dispose]();
  expect(room.bytes).toBe(0);
});

test("a run that sends much has to wait, and nobody else", async () => {
  // A byte a second: what waits, waits for minutes.
  const room = createRoom({ ofRun: 1000, bytesPerS: 1 });
  const read = async (run: typeof one) => (await room.read(request(900), run))[Symbol.dispose]();
  await read(one);
  const late = read(one).then(() => "late");
  expect(await Promise.race([late, read(other).then(() => "other")])).toBe("other");
});

test("what is made of a body takes room as it does, and goes with it", async () => {
  const room = createRoom({ ofRun: 100 });
  const held = await room.read(request(40), one);
  held.take(50);
  expect(() => held.take(20)).toThrow("Too many large requests");
  expect(room.bytes).toBe(90);
  held[Symbol.dispose]();
  expect(room.bytes).toBe(0);
});

test("a run whose bodies take long to look at has to wait, and nobody else", async () => {
  const room = createRoom({ ofRun: 1000, bytesPerS: 1000 });
  const read = async (run: typeof one) => (await room.read(request(1), run))[Symbol.dispose]();
  room.took(one, 60_000);
  const late = read(one).then(() => "late");
  expect(await Promise.race([late, read(other).then(() => "other")])).toBe("other");
});

test("a body that does not come is given up, and holds nothing", async () => {
  const room = createRoom({ readMs: 20 });
  const body = new ReadableStream({ start: (controller) => controller.enqueue(new Uint8Array(10)) });
  const stuck = new Request("http://x/", { method: "POST", body });
  expect(await failureOf(room.read(stuck, one))).toContain("did not come in time");
  expect(room.bytes).toBe(0);
});
