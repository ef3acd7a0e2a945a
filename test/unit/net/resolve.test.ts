import { expect, test } from "bun:test";
import { remembering } from "../../../src/net/resolve.ts";

test("a name is looked up again when its time is over, and each time that it was not found", async () => {
  let at = 0;
  const asked: string[] = [];
  const resolve = remembering(
    async (name) => {
      asked.push(name);
      return name === "nowhere" ? [] : [`192.0.2.${asked.length}`];
    },
    1000,
    () => at,
  );
  expect(await resolve("a")).toEqual(["192.0.2.1"]);
  expect(await resolve("b")).toEqual(["192.0.2.2"]);
  expect(await resolve("a")).toEqual(["192.0.2.1"]);
  for (let n = 0; n < 2; n += 1) expect(await resolve("nowhere")).toEqual([]);
  at = 1000;
  expect(await resolve("a")).toEqual(["192.0.2.5"]);
  expect(asked).toEqual(["a", "b", "nowhere", "nowhere", "a"]);
});
