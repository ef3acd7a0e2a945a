import { expect, test } from "bun:test";
import { createLargeBodies } from "../../../../src/api/http/large-bodies.ts";

const MIB = 1024 * 1024;
const announcing = (bytes: number | null) =>
  new Request("http://x", {
    method: "POST",
    headers: bytes === null ? {} : { "content-length": `${bytes}` },
  });

/** Holds what a body of this length takes until `end`. */
function begin(bodies: ReturnType<typeof createLargeBodies>, owner: string, bytes: number | null) {
  const { promise, resolve } = Promise.withResolvers<string>();
  const held = bodies.hold(owner, announcing(bytes), 32 * MIB, () => promise);
  return { held, end: () => resolve("read") };
}

test("an owner has so much at once, and no other's bodies count", async () => {
  const bodies = createLargeBodies(64 * MIB);
  const first = begin(bodies, "a", 32 * MIB);
  const unannounced = begin(bodies, "a", null);
  const refused = await begin(bodies, "a", 2 * MIB).held.catch((error: unknown) => error);
  expect(refused).toMatchObject({ code: "busy", retryAfterS: 1 });
  const small = begin(bodies, "a", MIB);
  const other = begin(bodies, "b", 32 * MIB);
  first.end();
  expect(await first.held).toBe("read");
  const next = begin(bodies, "a", 32 * MIB);
  for (const each of [unannounced, small, other, next]) {
    each.end();
    expect(await each.held).toBe("read");
  }
});

test("what fails holds nothing any more", async () => {
  const bodies = createLargeBodies(32 * MIB);
  const fail = () => Promise.reject(new Error("broken"));
  for (let times = 0; times < 3; times++) {
    const failed = bodies.hold("a", announcing(32 * MIB), 32 * MIB, fail);
    expect(await failed.catch(String)).toBe("Error: broken");
  }
});
