import { afterAll, beforeAll, expect, test } from "bun:test";
import type { InstanceTag } from "../../../src/ids.ts";
import { openOutside } from "../../../src/prove/outside.ts";

const INST = "0a7e" as InstanceTag;

const ip = (line: string) => {
  const { exitCode, stdout, stderr } = Bun.spawnSync(["ip", ...line.split(" ")]);
  expect([line, exitCode, stderr.toString()]).toEqual([line, 0, ""]);
  return stdout.toString();
};
beforeAll(() => {
  ip("link add office type veth peer name colleague");
  for (const link of ["office", "colleague"]) ip(`link set dev ${link} up`);
});
afterAll(() => void ip("link del office"));

test("what plays the outside takes no address of a network that the host is in", async () => {
  const used = async () => {
    await using outside = await openOutside(INST);
    return outside.besideAddresses.host;
  };
  expect(await used()).toBe("192.0.2.1");
  ip("addr add 192.0.2.77/24 dev office");
  expect(await used()).toBe("198.51.100.1");
  ip("route add 198.51.100.128/25 via 192.0.2.1");
  expect(await used()).toBe("198.18.0.1");
  expect(ip("-4 route show to match 192.0.2.1")).toContain("dev office");
  ip("route add blackhole 198.18.0.0/24");
  expect(await used().catch(String)).toContain("the host has addresses or routes in each of");
});
