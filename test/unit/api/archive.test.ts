import { expect, test } from "bun:test";
import { gunzipSync } from "node:zlib";
import { gzipped } from "../../../src/api/archive.ts";
import { until } from "../../fixtures/until.ts";

const MIB = 1024 * 1024;

function source(pieces: number) {
  const state = { given: 0, ended: false };
  async function* give() {
    try {
      for (; state.given < pieces; state.given++) yield crypto.getRandomValues(Buffer.alloc(MIB));
    } finally {
      state.ended = true;
    }
  }
  return { state, tar: give() };
}

test("it is what was given, compressed", async () => {
  const parts = ["one", "two", "x".repeat(100_000)];
  async function* tar() {
    for (const part of parts) yield Buffer.from(part);
  }
  const { body, done } = gzipped(tar(), new AbortController().signal);
  expect(gunzipSync(await new Response(body).bytes()).toString()).toBe(parts.join(""));
  await done;
});

test("who takes little has little made", async () => {
  const { state, tar } = source(1000);
  const { body, done } = gzipped(tar, new AbortController().signal);
  const reader = body.getReader();
  for (let n = 0; n < 3; n++) await reader.read();
  await Bun.sleep(100);
  expect(state.given).toBeLessThan(8);
  await reader.cancel();
  await done;
  expect(state.ended).toBe(true);
});

test("an end from outside ends it, also where nobody has taken anything", async () => {
  for (const before of [true, false]) {
    const { state, tar } = source(1000);
    const controller = new AbortController();
    const { body, done } = gzipped(tar, controller.signal);
    if (!before) await body.getReader().read();
    controller.abort(new Error("enough"));
    await done;
    await until(() => state.ended || state.given === 0);
  }
});

test("a failure on the way breaks it off", async () => {
  async function* tar() {
    yield Buffer.alloc(MIB, "x");
    throw new Error("damaged");
  }
  const { body, done } = gzipped(tar(), new AbortController().signal);
  const failed = await new Response(body).bytes().then(
    () => "it did not fail",
    (error: unknown) => String(error),
  );
  expect(failed).toContain("damaged");
  await done;
});
