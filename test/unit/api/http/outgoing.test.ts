import { expect, test } from "bun:test";
import { createOutgoing } from "../../../../src/api/http/outgoing.ts";

const words = (...all: string[]) => all.values();
const read = (stream: ReadableStream<Uint8Array>) => new Response(stream).text();

test("an answer that is read to its end is whole and no longer counted", async () => {
  const outgoing = createOutgoing(10);
  const stream = outgoing.of("a").stream(words("one ", "two"), 7);
  expect(outgoing.bytes).toBe(7);
  expect(await read(stream)).toBe("one two");
  expect(outgoing.bytes).toBe(0);
});

test("an answer whose client goes away is no longer counted", async () => {
  const outgoing = createOutgoing(10);
  await outgoing.of("a").stream(words("one"), 7).cancel();
  expect(outgoing.bytes).toBe(0);
});

test("over the bound the oldest is cut off, the newest never", async () => {
  const outgoing = createOutgoing(10);
  const first = outgoing.of("a").stream(words("first"), 4);
  const second = outgoing.of("a").stream(words("second"), 4);
  const third = outgoing.of("a").stream(words("third"), 6);
  expect(outgoing.bytes).toBe(10);
  expect(await read(first).catch((error: unknown) => error)).toMatchObject({ code: "unavailable" });
  expect(await Promise.all([read(second), read(third)])).toEqual(["second", "third"]);
  expect(await read(outgoing.of("a").stream(words("longer than all"), 99))).toBe("longer than all");
  expect(outgoing.bytes).toBe(0);
});

test("an answer that was begun is cut in its middle", async () => {
  const outgoing = createOutgoing(10);
  const reader = outgoing.of("a").stream(words("a", "b"), 6).getReader();
  expect((await reader.read()).value).toEqual(Uint8Array.of(97));
  const other = outgoing.of("a").stream(words("c"), 6);
  expect(await reader.read().catch((error: unknown) => error)).toMatchObject({ code: "unavailable" });
  expect(await read(other)).toBe("c");
});

test("over the bound it is the one with the most that loses, however old another's answer is", async () => {
  const outgoing = createOutgoing(10);
  const slow = outgoing.of("b").stream(words("slow"), 3);
  const greedy = [1, 2, 3, 4].map((n) => outgoing.of("a").stream(words(`${n}`), 3));
  expect(outgoing.bytes).toBe(9);
  expect(await read(slow)).toBe("slow");
  const answers = await Promise.allSettled(greedy.map(read));
  expect(answers.map(({ status }) => status)).toEqual(["rejected", "rejected", "fulfilled", "fulfilled"]);
});
