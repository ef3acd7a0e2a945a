import { expect, test } from "bun:test";
import { hostState, newRun, sh, stage } from "./stage.ts";

test("a network is made, listed and removed, and nothing is left of it", async () => {
  const { networks } = stage();
  const before = hostState();
  const [one, two] = [newRun(), newRun()];
  const made = await networks.ensure(one);
  expect(made).toMatchObject({ index: 0, host: "10.42.0.1", run: "10.42.0.2" });
  expect(await networks.ensure(one)).toEqual(made);
  expect(await networks.ensure(two)).toMatchObject({ index: 1, host: "10.42.1.1", run: "10.42.1.2" });
  expect(new Set(await networks.list())).toEqual(new Set([one, two]));

  const inside = made.netnsPath.split("/").at(-1);
  expect(sh(`ip -n ${inside} -o addr show`)).toMatch(/^\d+: eth0 +inet 10\.42\.0\.2\/24 [^\n]*$/);
  expect(sh(`ip -n ${inside} route`)).toStartWith("default via 10.42.0.1 dev eth0");

  await networks.remove(one);
  await networks.remove(one);
  expect(await networks.list()).toEqual([two]);
  await networks.remove(two);
  expect(hostState()).toEqual(before);
});
