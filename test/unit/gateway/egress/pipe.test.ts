import { expect, test } from "bun:test";
import { createPipe, type End } from "../../../../src/gateway/egress/pipe.ts";

/** An end that takes so much until it is told otherwise. */
function endOf(takes: number) {
  const state = { takes, written: "", paused: false, isShut: false };
  const end: End = {
    write(bytes) {
      const taken = Math.min(bytes.length, state.takes);
      state.takes -= taken;
      state.written += Buffer.from(bytes.subarray(0, taken)).toString();
      return taken;
    },
    pause: () => void (state.paused = true),
    resume: () => void (state.paused = false),
    shutdown: () => void (state.isShut = true),
  };
  return { state, end };
}

test("what the far end does not take waits, is held, and keeps the near one from being read", () => {
  const [near, far] = [endOf(0), endOf(4)];
  const held: number[] = [];
  const pipe = createPipe(near.end, far.end, (bytes) => held.push(bytes) > 0);
  expect([pipe.send(Buffer.from("abc")), near.state.paused, held]).toEqual([true, false, []]);
  expect([pipe.send(Buffer.from("defg")), near.state.paused, held]).toEqual([true, true, [3]]);
  // What had been read before it was paused.
  expect([pipe.send(Buffer.from("hi")), held]).toEqual([true, [3, 5]]);
  pipe.end();
  expect([pipe.isDone(), far.state.isShut]).toEqual([false, false]);
  far.state.takes = 2;
  pipe.drain();
  expect([far.state.written, pipe.isDone()]).toEqual(["abcdef", false]);
  far.state.takes = 100;
  pipe.drain();
  expect(far.state).toMatchObject({ written: "abcdefghi", isShut: true });
  expect([pipe.isDone(), held.at(-1)]).toEqual([true, 0]);
});

test("what may not be held is refused, and nothing of it waits", () => {
  const [near, far] = [endOf(0), endOf(1)];
  const pipe = createPipe(near.end, far.end, (bytes) => bytes < 3);
  expect(pipe.send(Buffer.from("abcd"))).toBe(false);
  expect([far.state.written, near.state.paused]).toEqual(["a", false]);
});
