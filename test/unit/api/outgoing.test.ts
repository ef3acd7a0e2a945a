import { expect, test } from "bun:test";
import { createOutgoing } from "../../../src/api/outgoing.ts";

const words = (...all: string[]) => all.values();
const read = (stream: ReadableStream<Uint8Array>) => new Response(stream).text();

test("an answer that is read to its end is whole and no longer counted", async () => {
  const outgoing = createOutgoing(10);
  const stream = outgoing.stream(words("one ", "two"), 7);
  expect(outgoing.bytes).toBe(7);
  expect(await read(stream)).toBe("one two");
  expect(outgoing.bytes).toBe(0);
});

test("an answer whose client goes away is no longer counted", async () => {
  const outgoing = createOutgoing(10);
  await outgoing.stream(words("one"), 7).cancel();
  expect(outgoing.bytes).toBe(0);
});

test("over the bound the oldest is cut off, the newest never", async () => {
  const outgoing = createOutgoing(10);
  const first = outgoing.stream(words("first"), 4);
  const second = outgoing.stream(words("second"), 4);
  const third = outgoing.stream(words("third"), 6);
  expect(outgoing.bytes).toBe(10);
  expect(await read(first).catch((error: unknown) => error)).toMatchObject({ code: "unavailable" });
  expect(await Promise.all([read(second), read(third)])).toEqual(["second", "third"]);
  expect(await read(outgoing.stream(words("longer than all"), 99))).toBe("longer than all");
  expect(outgoing.bytes).toBe(0);
});

test("an answer that was begun is cut in its middle", async () => {
  const outgoing = createOutgoing(10);
  const reader = outgoing.stream(words("a", "b"), 6).getReader();
  expect((await reader.read()).value).toEqual(Uint8Array.of(97));
  const other = outgoing.stream(words("c"), 6);
  expect(await reader.read().catch((error: unknown) => error)).toMatchObject({ code: "unavailable" });
  expect(await read(other)).toBe("c");
});
