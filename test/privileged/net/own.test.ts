import { expect, test } from "bun:test";
import { createOwnAddresses } from "../../../src/net/own.ts";
import { until } from "../../fixtures/until.ts";

/* In a throw-away copy: it changes the machine's addresses and routes. */
function ip(...commands: string[]): void {
  for (const command of commands) {
    const { exitCode, stderr } = Bun.spawnSync(["ip", ...command.split(" ")]);
    if (exitCode !== 0) throw new Error(`ip ${command}: ${stderr.toString()}`);
  }
}

const OWN = ["10.7.0.1", "10.7.0.2", "203.0.113.9", "10.8.3.4", "fd77::1", "fd77::2", "fd88::5"];
const OTHERS = [
  "10.7.0.3",
  "8.8.8.8",
  "10.9.0.1",
  "10.10.0.1",
  "fd77::3",
  "2606:4700::1",
  "fd99::1",
  "10.6.255.255",
];

test("an interface's second address and a local route are this host's own, its neighbours and gateways not", async () => {
  expect([...OWN, ...OTHERS].filter(createOwnAddresses())).toEqual([]);
  ip(
    "link add own0 type veth peer name own1",
    "link set own1 up",
    "link set own0 up",
    "address add 10.7.0.1/24 dev own0",
    "address add 10.7.0.2/24 dev own0",
    "address add fd77::1/64 dev own0 nodad",
    "address add fd77::2/64 dev own0 nodad",
    "address add 203.0.113.9/32 dev lo",
    "route add local 10.8.0.0/16 dev lo",
    "-6 route add local fd88::/64 dev lo",
    "route add default via 10.7.0.254",
    "-6 route add default via fd77::ff",
    "route add blackhole 10.9.0.0/16",
    "route add prohibit 10.10.0.0/16",
    "-6 route add prohibit fd99::/64",
  );
  const isOwn = createOwnAddresses();
  expect([...OWN, ...OTHERS].filter(isOwn)).toEqual(OWN);

  // A change is seen, though not in that moment.
  ip("address add 10.7.0.3/24 dev own0", "address del 203.0.113.9/32 dev lo");
  const seen = () => [isOwn("10.7.0.3"), isOwn("203.0.113.9")];
  await until(() => seen()[0]);
  expect(seen()).toEqual([true, false]);
});
