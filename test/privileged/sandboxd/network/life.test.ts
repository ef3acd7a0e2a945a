import { afterEach, beforeEach, expect, test } from "bun:test";
import { join } from "node:path";
import { runId, type RunId } from "../../../../src/ids.ts";
import { networkNames } from "../../../../src/sandboxd/network/names.ts";
import { CommandError, runCommand, type Runner } from "../../../../src/sandboxd/runner.ts";
import { hostState, newRun, sh, stage } from "./stage.ts";

const before = { state: {} };
beforeEach(() => {
  before.state = hostState();
});
afterEach(() => expect(hostState()).toEqual(before.state as never));

test("a network is made, listed and removed, and nothing is left of it", async () => {
  const { networks } = stage({ inst: "0b01" });
  const [one, two] = [newRun(), newRun()];
  const made = await networks.ensure(one);
  expect(made).toMatchObject({ index: 0, host: "10.42.0.1", run: "10.42.0.2" });
  expect(await networks.ensure(one)).toEqual(made);
  expect(await networks.ensure(two)).toMatchObject({ index: 1, host: "10.42.1.1", run: "10.42.1.2" });
  expect(new Set(await networks.list())).toEqual(new Set([one, two]));

  const inside = made.netnsPath.split("/").at(-1);
  // No IPv6 either, and no bridge: the pair ends at the host.
  expect(sh(`ip -n ${inside} -o addr show | awk '{ print $2, $3, $4 }'`)).toBe(
    "lo inet 127.0.0.1/8\neth0 inet 10.42.0.2/24",
  );
  expect(sh(`ip -n ${inside} route`)).toStartWith("default via 10.42.0.1 dev eth0");
  expect(sh("ip -o -6 addr show | grep -c cd0b01 || true")).toBe("0");
  expect(sh("ip -o link show type bridge")).toBe("");

  await networks.remove(one);
  await networks.remove(one);
  expect(await networks.list()).toEqual([two]);
  await networks.remove(two);
});

test("networks of any size are cut from the subnet, and none is given again at once", async () => {
  const { networks } = stage({ inst: "0b02", runs: { subnet: "172.31.8.0/28", prefix: 30 } });
  const runs = [newRun(), newRun(), newRun(), newRun()];
  const made = await Promise.all(runs.map((run) => networks.ensure(run)));
  expect(made.map(({ host }) => host).toSorted()).toEqual([
    "172.31.8.1",
    "172.31.8.13",
    "172.31.8.5",
    "172.31.8.9",
  ]);
  expect(networks.ensure(newRun())).rejects.toThrow("all 4 networks of [runs] subnet are in use");
  await Promise.all(runs.map((run) => networks.remove(run)));
  expect(networks.ensure(newRun())).rejects.toThrow("or rest after use");
});

test("what a sandboxd before left goes on when it is whole, and goes when it is not", async () => {
  const { networks, open, instance } = stage({ inst: "0b03" });
  const [whole, noLink, noNamespace, torn] = [newRun(), newRun(), newRun(), newRun()];
  for (const run of [whole, noLink, noNamespace, torn]) await networks.ensure(run);
  const names = (run: RunId) => networkNames(instance.inst, run);
  sh(`
    ip link del ${names(noLink).veth}
    ip netns del ${names(noNamespace).netns}
    ip link set dev ${names(torn).veth} alias ''
    ip link add cd0b03halfmade type veth peer name cd0b03inner
    ip link add cd0b04other type veth peer name someother`);
  const next = open();
  expect(await next.list()).toEqual([whole]);
  expect(sh("ip -o link | grep -c cd0b03")).toBe("1");
  expect(sh("ip -o link | grep -c other")).toBe("2");
  // The turn goes on where it was.
  const later = newRun();
  expect(await next.ensure(later)).toMatchObject({ index: 4 });
  expect(await next.ensure(whole)).toMatchObject({ index: 0 });
  await next.reconcile((run) => run === later);
  expect(await next.list()).toEqual([later]);
  await next.remove(later);
  sh("ip link del cd0b04other");
});

test("whichever step fails, nothing is left and the next attempt succeeds", async () => {
  const failing = { at: 0, calls: 0 };
  const run: Runner = async (argv, options) => {
    if (++failing.calls === failing.at)
      throw new CommandError(argv, { kind: "exit", code: 1 }, "told to fail");
    return await runCommand(argv, options);
  };
  const { open } = stage({ inst: "0b05", run });
  let failures = 0;
  for (let at = 1; ; at++) {
    Object.assign(failing, { at: 0, calls: 0 });
    const networks = open();
    await networks.list();
    Object.assign(failing, { at, calls: 0 });
    const id = newRun();
    const made = await networks.ensure(id).then(
      () => true,
      (error: unknown) => {
        expect(Bun.inspect(error)).toContain("told to fail");
        return false;
      },
    );
    const steps = failing.calls;
    Object.assign(failing, { at: 0 });
    if (made) {
      await networks.remove(id);
      if (at > steps) break;
      continue;
    }
    failures++;
    expect(hostState()).toEqual(before.state as never);
    await networks.ensure(id);
    await networks.remove(id);
  }
  expect(failures).toBeGreaterThan(3);
});

test("a subnet that this host or another instance has a use for is refused, and what to do is said", async () => {
  const { networks } = stage({ inst: "0b06" });
  sh("ip route add 10.42.64.0/20 dev lo");
  expect(networks.ensure(newRun())).rejects.toThrow(
    '[runs] subnet = "10.42.0.0/16" overlaps this host\'s route to 10.42.64.0/20 (lo); set it to a private network',
  );
  sh("ip route del 10.42.64.0/20; ip route add 10.0.0.0/8 dev lo");
  expect(await networks.problem()).toContain("10.0.0.0/8");
  sh("ip route del 10.0.0.0/8; ip route add unreachable 10.0.0.0/8; ip route add 0.0.0.0/1 dev lo");
  expect(await networks.problem()).toBe(null);
  sh("ip route del unreachable 10.0.0.0/8; ip route del 0.0.0.0/1");

  const other = stage({ inst: "0b07", runs: { subnet: "10.42.128.0/17" } }).networks;
  const beside = stage({ inst: "0b08", runs: { subnet: "10.43.0.0/16" } }).networks;
  const run = runId.make();
  await networks.ensure(run);
  expect(other.ensure(newRun())).rejects.toThrow(
    '"10.42.128.0/17" overlaps 10.42.0.0/16, where the runs of instance 0b06',
  );
  await beside.ensure(run);
  await networks.remove(run);
  await other.ensure(run);
  await beside.remove(run);
  await other.remove(run);
});

test("rules that someone else has deleted with their chains hinder nobody", async () => {
  const { networks, log } = stage({ inst: "0b09" });
  const [one, two, three] = [newRun(), newRun(), newRun()];
  await networks.ensure(one);
  await networks.ensure(two);
  const flush = () => sh("iptables -t raw -F; iptables -t raw -X; iptables -F; iptables -X");
  flush();
  await networks.remove(one);
  const rules = () => sh("iptables-save -t raw | grep -c 0b09");
  expect(Number(rules())).toBeGreaterThan(10);
  flush();
  await networks.ensure(three);
  expect(Number(rules())).toBeGreaterThan(20);
  expect(log.join("")).toContain("the packet filter is made anew");
  flush();
  await networks.reconcile((run) => run === three);
  expect(await networks.list()).toEqual([three]);
  await networks.remove(three);
});

test("a run that starts after someone else's flush has its walls at once, and before all else", async () => {
  const { networks } = stage({ inst: "0b16" });
  const [one, two, three] = [newRun(), newRun(), newRun()];
  const first = () => sh("iptables -t raw -S PREROUTING 1");
  await networks.ensure(one);
  sh("iptables -t raw -F PREROUTING");
  await networks.ensure(two);
  expect(first()).toBe("-A PREROUTING -j CD0b16-PRE");
  sh("iptables -t raw -I PREROUTING -j ACCEPT");
  await networks.ensure(three);
  expect(first()).toBe("-A PREROUTING -j CD0b16-PRE");
  sh("iptables -t raw -D PREROUTING -j ACCEPT");
  for (const run of [one, two, three]) await networks.remove(run);
});

test("what a start of systemd-sysctl sets for all interfaces does not stay on a run's", async () => {
  const { networks, instance } = stage({ inst: "0b10" });
  const run = newRun();
  await networks.ensure(run);
  const { veth } = networkNames(instance.inst, run);
  const settings = () =>
    sh(
      `cd /proc/sys/net; cat ipv4/conf/${veth}/{rp_filter,arp_ignore} ipv6/conf/${veth}/{accept_ra,disable_ipv6}`,
    );
  const before = settings();
  expect(before.split("\n")).toEqual(["1", "2", "0", "1"]);
  sh(
    `cd /proc/sys/net; for x in ipv4/conf/${veth}/{rp_filter,arp_ignore} ipv6/conf/${veth}/disable_ipv6; do echo 0 >$x; done`,
  );
  await networks.reconcile(() => true);
  expect(settings()).toBe(before);
  await networks.remove(run);
});

test("one run's trouble keeps nobody else's network from being looked after", async () => {
  const stuck = { run: "" };
  const run: Runner = async (argv, options) => {
    if (stuck.run !== "" && `${options.stdin}`.includes(`netns del ${stuck.run}`)) throw new Error("stuck");
    return await runCommand(argv, options);
  };
  const { networks, instance } = stage({ inst: "0b15", run });
  const [noLink, unclaimed, good] = [newRun(), newRun(), newRun()];
  for (const each of [noLink, unclaimed, good]) await networks.ensure(each);
  const rules = () => sh("iptables-save | grep 0b15 | sort");
  const before = rules();
  const { veth } = networkNames(instance.inst, good);
  const filter = () => sh(`cat /proc/sys/net/ipv4/conf/${veth}/rp_filter`);

  sh(`ip link del ${networkNames(instance.inst, noLink).veth}; echo 0 >/proc/sys/net/ipv4/conf/${veth}/rp_filter
    iptables -t raw -F PREROUTING; iptables -F INPUT`);
  stuck.run = networkNames(instance.inst, unclaimed).netns;
  expect(networks.reconcile((each) => each !== unclaimed)).rejects.toThrow("not all is as it should be");
  await Bun.sleep(500);
  expect(filter()).toBe("1");
  expect(
    rules()
      .split("\n")
      .filter((line) => before.split("\n").includes(line))
      .join("\n"),
  ).toContain("-A PREROUTING");
  expect(await networks.list()).toContain(unclaimed);

  stuck.run = "";
  expect(networks.isLeft()).toBe(true);
  await networks.remove(noLink);
  await networks.remove(good);
  await networks.reconcile(() => false);
  expect(networks.isLeft()).toBe(false);
});

test("a start with another gateway's port changes the rules of runs that go on", async () => {
  const run = newRun();
  await stage({ inst: "0b14" }).networks.ensure(run);
  const ports = () => sh("iptables-save | grep -oE 'port [0-9:]+' | sort | uniq -c | sort | xargs");
  const { networks, log } = stage({ inst: "0b14", runs: { gateway_port: 5000 } });
  const before = ports();
  await networks.list();
  expect(ports()).toBe(before.replaceAll("4180:4181", "5000:5001"));
  expect(log).toEqual([]);
  await networks.remove(run);
});

test("whoever is killed at any moment leaves nothing that the next start does not take away", async () => {
  for (let round = 0; round < 8; round++) {
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "churn.ts"), "0b11"], {
      stdout: "pipe",
    });
    const reader = child.stdout.getReader();
    await reader.read();
    await Bun.sleep(Math.random() * 60);
    child.kill("SIGKILL");
    await child.exited;
    // Programs that it had started end by themselves.
    await Bun.sleep(100);
    const { networks } = stage({ inst: "0b11" });
    await networks.reconcile(() => false);
    expect(hostState()).toEqual(before.state as never);
  }
}, 60_000);

test("an uninstall takes away what a kill has left, and nobody else's", async () => {
  const { networks } = stage({ inst: "0b12" });
  const beside = stage({ inst: "0b13", runs: { subnet: "10.43.0.0/16" } }).networks;
  const run = newRun();
  await beside.ensure(run);
  const only = hostState();
  await networks.ensure(newRun());
  await networks.ensure(newRun());
  sh(`inst=0b12; . ${join(import.meta.dir, "../../../../install/uninstall.sh")}; remove_networks`);
  expect(hostState()).toEqual(only);
  await beside.remove(run);
});
