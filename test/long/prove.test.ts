import { afterAll, expect, test } from "bun:test";
import { breakableHost, failedOf } from "../fixtures/broken/host.ts";
import { brokenWalls } from "../fixtures/broken/walls.ts";

/** Each wall is broken on purpose, on a live appliance, and a proof must say so: by a claim about that wall. */
const host = await breakableHost();
const caught: { wall: string; by: string[] }[] = [];
afterAll(async () => {
  const rows = caught.map(({ wall, by }) => `| ${wall} | ${by.join(", ")} |`).join("\n");
  process.stdout.write(`caught: ${caught.length} of ${brokenWalls.length}\n${rows}\n`);
  // What it left is not looked for: of a sandbox outside its cgroup nobody knows.
  await host.appliance.stop();
}, 60_000);

test("with all walls up it passes", async () => {
  const { claims, error } = await host.prove();
  expect([error, claims.filter(({ passed }) => !passed)]).toEqual([null, []]);
}, 60_000);

const only = new RegExp(process.env.COFFERDAM_BROKEN_WALL ?? "");
for (const wall of brokenWalls.filter(({ name }) => only.test(name))) {
  test(
    wall.name,
    async () => {
      const failed = failedOf(await host.proveWithout(wall));
      expect(
        failed.filter((id) => wall.caughtBy.includes(id)),
        failed.join(", "),
      ).not.toEqual([]);
      caught.push({ wall: wall.name, by: failed });
    },
    240_000,
  );
}

test("and with all of them up again, too", async () => {
  expect(failedOf(await host.prove())).toEqual([]);
}, 60_000);
