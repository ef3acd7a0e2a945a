import { expect, test } from "bun:test";
import { createLane } from "../../../src/remote/lane.ts";

test("who comes while a turn is under way shares the next one", async () => {
  const turns: number[][] = [];
  const gate = Promise.withResolvers<void>();
  const lane = createLane<number>(async (members) => {
    turns.push([...members]);
    if (turns.length === 1) await gate.promise;
  });
  const first = [lane.join(1), lane.join(2)];
  await Bun.sleep(5);
  const rest = [lane.join(3), lane.join(4)];
  expect(lane.busy).toBe(true);
  gate.resolve();
  await Promise.all([...first, ...rest]);
  expect(turns).toEqual([
    [1, 2],
    [3, 4],
  ]);
  await lane.idle();
  expect(lane.busy).toBe(false);
  await lane.join(5);
  expect(turns.at(-1)).toEqual([5]);
});

test("a turn that fails is the failure of its members alone", async () => {
  const lane = createLane<number>(async (members) => {
    if (members.includes(1)) throw new Error("refused");
  });
  const failing = Promise.allSettled([lane.join(1), lane.join(2)]);
  await Bun.sleep(5);
  await lane.join(3);
  expect((await failing).map(({ status }) => status)).toEqual(["rejected", "rejected"]);
});
