import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { networkNames } from "../../../../src/sandboxd/network/names.ts";
import { CommandError, runCommand, type Runner } from "../../../../src/sandboxd/runner.ts";
import { flushRuleset } from "../../../fixtures/flush-ruleset.ts";
import { until } from "../../../fixtures/until.ts";
import { tcpFrom } from "./sockets.ts";
import { hostState, newRun, PORT, sh, stage, useIptables } from "./stage.ts";

/**
 * Nobody looks at the walls here but the tests themselves. So each attack succeeds between the moment at which the walls
 * go and the look after it, which is the control; with the look it is over.
 */
const HOST_PORT = 8081;
const HOST = "10.42.0.1";

describe.each([
  { kind: "nft", inst: "0e01", flush: flushRuleset },
  {
    kind: "legacy",
    inst: "0e02",
    flush: () => sh("for t in raw filter nat; do iptables -t $t -F; iptables -t $t -X; done"),
  },
] as const)("iptables-$kind", ({ kind, inst, flush }) => {
  const host = breakable();
  const { networks, instance, log, open } = stage({ inst, run: host.run });
  const run = newRun();
  const names = networkNames(instance.inst, run);
  const servers: { stop(now: boolean): void }[] = [];
  const before = { state: {} };

  beforeAll(async () => {
    useIptables(kind);
    before.state = hostState();
    for (const port of [PORT, HOST_PORT])
      servers.push(Bun.listen({ hostname: "0.0.0.0", port, socket: { data() {} } }));
    await networks.ensure(run);
    await networks.watch();
  });

  afterAll(() => {
    for (const server of servers) server.stop(true);
  });

  const isUp = () => sh(`ip -br link show dev ${names.veth}`).includes("UP");
  const told = () => log.splice(0).join("");

  /** Whether the host's port answers; calls of the gateway's port, made before and after, have been answered by then. */
  async function reachesHost(): Promise<boolean> {
    using before = tcpFrom(names.netns, HOST, PORT);
    await until(() => before.arrived());
    using attack = tcpFrom(names.netns, HOST, HOST_PORT);
    using after = tcpFrom(names.netns, HOST, PORT);
    await until(() => after.arrived());
    return attack.arrived();
  }

  /** A look soon after one that found something waits for its time. */
  async function watchUntil(done: () => boolean): Promise<void> {
    await until(async () => {
      await networks.watch();
      return done();
    });
  }

  test("with the walls up the host's port is out of reach, and a look finds nothing", async () => {
    expect(await reachesHost()).toBe(false);
    expect(told()).toBe("");
  });

  test("after a flush a run reaches the host, and with the next look no more; what it had opened is dead", async () => {
    flush();
    using opened = tcpFrom(names.netns, HOST, HOST_PORT);
    await until(() => opened.arrived());
    await watchUntil(() => log.length > 0);
    expect(told()).toContain("runs' walls were torn");
    expect(isUp()).toBe(true);
    expect(await reachesHost()).toBe(false);
    const dropped = async () => (await networks.drops(run)).reduce((sum, { packets }) => sum + packets, 0);
    const packets = await dropped();
    opened.send("more");
    await until(async () => (await dropped()) > packets);
  });

  test("a rule put before the walls lets a run out until the next look, which says so once; counts are kept", async () => {
    expect(await reachesHost()).toBe(false);
    const drops = await networks.drops(run);
    expect(drops.length).toBeGreaterThan(0);
    for (const round of [1, 2]) {
      sh(
        "iptables -t raw -I PREROUTING -j ACCEPT; iptables -I INPUT -j ACCEPT; iptables -I OUTPUT -j ACCEPT",
      );
      expect(await reachesHost()).toBe(true);
      await watchUntil(() => sh("iptables -t raw -S PREROUTING 1").includes(inst));
      expect(await reachesHost()).toBe(false);
      expect(told().match(/others' rules were before/g) ?? []).toHaveLength(round === 1 ? 1 : 0);
      sh(
        "iptables -t raw -D PREROUTING -j ACCEPT; iptables -D INPUT -j ACCEPT; iptables -D OUTPUT -j ACCEPT",
      );
    }
    const now = new Map((await networks.drops(run)).map(({ reason, packets }) => [reason, packets]));
    for (const { reason, packets } of drops) expect(now.get(reason)).toBeGreaterThanOrEqual(packets);
  });

  test("what was dropped before walls were torn is told after they were made anew", async () => {
    expect(await reachesHost()).toBe(false);
    for (const _ of [1, 2]) {
      const before = new Map((await networks.drops(run)).map(({ reason, packets }) => [reason, packets]));
      expect(before.size).toBeGreaterThan(0);
      sh("iptables -t raw -D PREROUTING $(iptables -t raw -S PREROUTING | grep -o -m1 -e '-j CD.*')");
      await watchUntil(() => log.length > 0);
      expect(told()).toContain("runs' walls were torn");
      const after = new Map((await networks.drops(run)).map(({ reason, packets }) => [reason, packets]));
      for (const [reason, packets] of before) expect(after.get(reason) ?? 0).toBeGreaterThanOrEqual(packets);
    }
  });

  test.each([
    ["can't be made anew", "iptables-restore", "fail"],
    ["are said to be made anew and are not", "iptables-restore", "lie"],
    ["can't be looked at", "iptables-save", "fail"],
  ] as const)("while walls %s nothing passes, and then all does again", async (_, program, how) => {
    flush();
    expect(await reachesHost()).toBe(true);
    host.broken.set(program, how);
    await watchUntil(() => !isUp());
    using attack = tcpFrom(names.netns, HOST, HOST_PORT);
    // Again and again the same: it is said once.
    for (let look = 0; look < 3; look++) await networks.watch();
    expect(attack.arrived()).toBe(false);
    expect(told().match(/runs are cut off/g)).toHaveLength(1);
    host.broken.clear();
    await watchUntil(isUp);
    expect(await reachesHost()).toBe(false);
  });

  test("a look waits for nobody's turn: with the walls being changed by a program that hangs, runs are cut off", async () => {
    const hung = Promise.withResolvers<void>();
    host.broken.set("iptables-restore", hung.promise);
    const other = newRun();
    const ensured = networks.ensure(other);
    await until(() => host.waiting > 0);
    flush();
    // The look that finds it waits for its turn itself, to mend.
    await until(() => {
      void networks.watch();
      return !isUp();
    });
    host.broken.clear();
    hung.resolve();
    await ensured;
    await watchUntil(isUp);
    await networks.remove(other);
    expect(await reachesHost()).toBe(false);
  });

  test("a start opens what a sandboxd before it has shut", async () => {
    sh(`ip link set dev ${names.veth} down`);
    await open().list();
    expect(isUp()).toBe(true);
    expect(await reachesHost()).toBe(false);
  });

  test("a start that can't look at the walls of runs from before it shuts them off, and opens them once it can", async () => {
    flush();
    expect(await reachesHost()).toBe(true);
    host.broken.set("iptables-save", "fail");
    const next = open();
    await next.list().catch(() => {});
    expect(isUp()).toBe(false);
    await next.watch();
    expect(isUp()).toBe(false);
    host.broken.clear();
    await until(async () => {
      await next.watch();
      return isUp();
    });
    expect(await reachesHost()).toBe(false);
    expect(told().match(/runs are cut off/g)).toHaveLength(1);
  });

  test("a lane that is asked for while runs are cut off is to be asked for again", async () => {
    sh("ip link add far0 type veth peer name far1; ip addr add 8.8.4.1/24 dev far0; ip link set far0 up");
    const lanes = [{ address: "8.8.4.4", port: 5432 }];
    flush();
    host.broken.set("iptables-restore", "fail");
    await watchUntil(() => !isUp());
    const refused = await networks.openLanes(run, lanes).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: "unavailable", message: expect.stringContaining("cut off") });
    host.broken.clear();
    await watchUntil(isUp);
    await networks.openLanes(run, lanes);
    await networks.openLanes(run, []);
    sh("ip link del far0");
    told();
  });

  test("runs that come and go, with lanes and without, are no reason to shut", async () => {
    told();
    sh("ip link add far0 type veth peer name far1; ip addr add 8.8.4.1/24 dev far0; ip link set far0 up");
    const over = new AbortController();
    const looks = (async () => {
      for (; !over.signal.aborted; await Bun.sleep(1)) await networks.watch();
    })();
    for (let round = 0; round < 8; round++) {
      const others = [newRun(), newRun()];
      await Promise.all(others.map((each) => networks.ensure(each)));
      await networks.openLanes(others[0] ?? run, [{ address: "8.8.4.4", port: 5432 }]);
      await Promise.all(others.map((each) => networks.remove(each)));
    }
    over.abort();
    await looks;
    sh("ip link del far0");
    expect(told()).toBe("");
  });

  test("nothing is left", async () => {
    await networks.remove(run);
    sh("iptables -t nat -S >/dev/null");
    expect(hostState()).toMatchObject({ links: (before.state as { links: string }).links });
    expect(sh("iptables-save | grep -c CD || true")).toBe("0");
  });
});

test("a look at walls that nobody has touched starts no program", async () => {
  useIptables("nft");
  const host = breakable();
  const { networks } = stage({ inst: "0e03", run: host.run });
  const run = newRun();
  await networks.ensure(run);
  await networks.watch();
  const started = host.started;
  for (let look = 0; look < 100; look++) await networks.watch();
  expect(host.started).toBe(started);
  sh("iptables -N somebody");
  await networks.watch();
  expect(host.started).toBe(started + 1);
  sh("iptables -X somebody");
  await networks.remove(run);
});

test("two instances, each of which has its walls first, don't fight", async () => {
  useIptables("nft");
  const [one, other] = [stage({ inst: "0e04" }), stage({ inst: "0e05", runs: { subnet: "10.43.0.0/16" } })];
  const runs = [newRun(), newRun()] as const;
  await one.networks.ensure(runs[0]);
  await other.networks.ensure(runs[1]);
  const first = sh("iptables -t raw -S PREROUTING 1");
  for (const { networks } of [one, other]) await networks.watch();
  expect(sh("iptables -t raw -S PREROUTING 1")).toBe(first);
  expect([...one.log, ...other.log]).toEqual([]);
  await one.networks.remove(runs[0]);
  await other.networks.remove(runs[1]);
});

/** This host's programs, of which one may fail, claim to have done what they did not, or hang. */
function breakable() {
  const state = {
    broken: new Map<string, "fail" | "lie" | Promise<void>>(),
    started: 0,
    waiting: 0,
  };
  const run: Runner = async (argv, options) => {
    state.started++;
    const how = state.broken.get(argv[0] ?? "");
    if (how === "fail") throw new CommandError(argv, { kind: "exit", code: 4 }, "told to fail");
    if (how === "lie") return "";
    if (how !== undefined) {
      state.waiting++;
      await how;
    }
    return await runCommand(argv, options);
  };
  return Object.assign(state, { run });
}
