import { beforeAll, expect, test } from "bun:test";
import {
  chmodSync,
  cpSync,
  existsSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { sandboxId, type SandboxId } from "../../../src/ids.ts";
import { removeStrays } from "../../../src/sandboxd/adopt.ts";
import { BOOT_STEPS, type BootStep } from "../../../src/sandboxd/boot.ts";
import { openCgroups } from "../../../src/sandboxd/cgroup.ts";
import { sandboxNames } from "../../../src/sandboxd/names.ts";
import { createSlot } from "../../../src/sandboxd/slot.ts";
import { fateOf, prepareLibrary, refusal, stage } from "./stage.ts";

let lib = "";
beforeAll(() => {
  lib = prepareLibrary();
}, 300_000);

/** The main processes of a sandbox, by what its memory cgroup holds. */
function members(inst: string, id: SandboxId): number[] {
  const [group] = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
    .map((top) => join(top, `cofferdam-${inst}`, id, "cgroup.procs"))
    .filter((file) => statSync(file, { throwIfNoEntry: false }) !== undefined);
  return readFileSync(group!, "utf8").split("\n").filter(Boolean).map(Number);
}

test("a namespace gets one sandbox, in which its files and nothing else are", async () => {
  const at = await stage(lib);
  const namespace = at.namespace();
  writeFileSync(join(at.live(namespace), "note"), "from the host");
  const { sandbox, nonce, from_pool } = await at.client.call("ensureSandbox", { namespace });
  expect(from_pool).toBe(false);
  expect(at.api.nonce(sandbox)).toBe(nonce);
  expect(await at.api.shell(sandbox, "cat /home/agent/workspace/note; ls /home/agent")).toBe(
    "from the hostworkspace\n",
  );
  expect(await at.client.call("ensureSandbox", { namespace })).toEqual({ sandbox, nonce, from_pool: false });
  expect(await at.client.call("inspectSandbox", { sandbox })).toEqual({ state: "running", oom: false });
  expect(at.left()).not.toEqual([]);
  await at.client.call("stopSandbox", { sandbox });
  await at.client.call("stopSandbox", { sandbox });
  expect(await fateOf(at.client, sandbox)).toEqual({ state: "gone", oom: false });
  expect(at.left()).toEqual([]);
  const next = await at.client.call("ensureSandbox", { namespace });
  expect(next.sandbox).not.toBe(sandbox);
  expect(await at.end()).toEqual([]);
}, 60_000);

test("ten namespaces at once get ten sandboxes, two calls for one namespace the same", async () => {
  const at = await stage(lib, { exec: { pool: 2 } });
  const namespaces = Array.from({ length: 10 }, () => at.namespace());
  const both = await Promise.all(
    [...namespaces, ...namespaces].map((namespace) => at.client.call("ensureSandbox", { namespace })),
  );
  const ids = both.map(({ sandbox }) => sandbox);
  expect(new Set(ids).size).toBe(10);
  expect(ids.slice(10)).toEqual(ids.slice(0, 10));
  for (const [index, namespace] of namespaces.entries()) {
    writeFileSync(join(at.live(namespace), "whose"), namespace);
    expect(await at.api.shell(ids[index]!, "cat /home/agent/workspace/whose")).toBe(namespace);
  }
  expect(await at.end()).toEqual([]);
}, 120_000);

test("the pool fills while api listens, and each spare serves one tenant", async () => {
  const at = await stage(lib, { exec: { pool: 2 } });
  const ready = async (count: number) => {
    for (;;) {
      const status = await at.client.call("status", {});
      if (status.pool.ready === count && status.pool.booting === 0) return status;
      await Bun.sleep(20);
    }
  };
  const spares = (await ready(2)).sandboxes;
  expect(spares.map(({ namespace }) => namespace)).toEqual([null, null]);
  const { sandbox, from_pool } = await at.client.call("ensureSandbox", { namespace: at.namespace() });
  expect(from_pool).toBe(true);
  expect(spares.map((spare) => spare.sandbox)).toContain(sandbox);
  expect((await ready(2)).sandboxes.length).toBe(3);
  await at.client.call("stopSandbox", { sandbox });
  expect((await ready(2)).sandboxes.length).toBe(2);
  expect(await at.end()).toEqual([]);
}, 60_000);

test("limits are in force, and running out of memory is told as such", async () => {
  const at = await stage(lib, { exec: { memory_mb: 128 } });
  const [namespace, neighbour] = [at.namespace(), at.namespace()];
  const { sandbox } = await at.client.call("ensureSandbox", { namespace });
  const other = await at.client.call("ensureSandbox", { namespace: neighbour });
  const pids = members(at.instance.inst, sandbox);
  expect(pids.length).toBeGreaterThan(2);
  for (const pid of pids) expect(readFileSync(`/proc/${pid}/oom_score_adj`, "utf8")).toBe("900\n");
  // A control: as much as fits does no harm.
  expect(await at.api.shell(sandbox, "head -c 20000000 /dev/zero | tail -c 20000000 | wc -c")).toBe(
    "20000000\n",
  );
  at.api.send(sandbox, "head -c 200000000 /dev/zero | tail -c 200000000 | wc -c");
  await at.api.ended(sandbox);
  expect(await fateOf(at.client, sandbox)).toEqual({ state: "gone", oom: true });
  expect(await at.client.call("inspectSandbox", { sandbox: other.sandbox })).toEqual({
    state: "running",
    oom: false,
  });
  expect(await at.api.shell(other.sandbox, "echo well")).toBe("well\n");
  const next = await at.client.call("ensureSandbox", { namespace });
  expect(next.sandbox).not.toBe(sandbox);
  expect(await at.end()).toEqual([]);
}, 60_000);

test("on the host a sandbox has no rights, and its gofer only those over the files that it is shown", async () => {
  const at = await stage(lib);
  const { sandbox } = await at.client.call("ensureSandbox", { namespace: at.namespace() });
  expect(await at.api.shell(sandbox, "echo runs")).toBe("runs\n");
  const field = (pid: number | "self", name: string) =>
    new RegExp(`^${name}:\\s*(\\S+)`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  // The control: this process, which started them, is root and has fewer filters.
  expect(field("self", "Uid")).toBe("0");
  const seen = new Set<string>();
  for (const pid of members(at.instance.inst, sandbox)) {
    const gofer = readFileSync(`/proc/${pid}/cmdline`, "utf8").startsWith("runsc-gofer");
    seen.add(gofer ? "gofer" : "sandbox");
    expect([field(pid, "Uid"), field(pid, "CapPrm"), field(pid, "CapBnd"), field(pid, "NoNewPrivs")]).toEqual(
      // CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID and SYS_CHROOT.
      gofer
        ? ["0", "000000000004001f", "000000000004001f", "1"]
        : ["65534", "0000000000000000", "0000000000000000", "1"],
    );
    expect(field(pid, "Seccomp")).toBe("2");
    expect(Number(field(pid, "Seccomp_filters"))).toBeGreaterThan(Number(field("self", "Seccomp_filters")));
    expect(readlinkSync(`/proc/${pid}/ns/net`)).not.toBe(readlinkSync("/proc/self/ns/net"));
    expect(existsSync(`/proc/${pid}/root/etc/passwd`)).toBe(false);
  }
  expect([...seen].toSorted()).toEqual(["gofer", "sandbox"]);
  expect(await at.end()).toEqual([]);
});

test("a sandbox that ends by itself, or whose sandbox process is killed, is removed and replaced", async () => {
  const at = await stage(lib);
  const namespace = at.namespace();
  const endings: ((sandbox: SandboxId) => void)[] = [
    (sandbox) => at.api.send(sandbox, "exit 3"),
    (sandbox) => process.kill(members(at.instance.inst, sandbox)[1]!, "SIGKILL"),
  ];
  for (const finish of endings) {
    const { sandbox } = await at.client.call("ensureSandbox", { namespace });
    finish(sandbox);
    await at.api.ended(sandbox);
    expect(await fateOf(at.client, sandbox)).toEqual({ state: "gone", oom: false });
    expect(at.left()).toEqual([]);
  }
  expect(await at.end()).toEqual([]);
}, 60_000);

test.each([...BOOT_STEPS])(
  "a boot that fails at the step %s leaves nothing and says so",
  async (step) => {
    let broken: BootStep | undefined = step;
    const at = await stage(lib, {
      onStep: (now) => {
        if (now === broken) throw new Error("broken on purpose");
      },
    });
    const namespace = at.namespace();
    expect(await refusal(at.client.call("ensureSandbox", { namespace }))).toContain("could not be prepared");
    expect(at.left()).toEqual([]);
    broken = undefined;
    await at.client.call("ensureSandbox", { namespace });
    expect(await at.end()).toEqual([]);
  },
  60_000,
);

test("without api's listener nothing is made, and a call is told to come again", async () => {
  const at = await stage(lib, { api: false, exec: { pool: 2 } });
  const namespace = at.namespace();
  expect(await refusal(at.client.call("ensureSandbox", { namespace }))).toContain(
    "does not accept sandboxes",
  );
  expect(at.left()).toEqual([]);
  expect(readdirSync(at.instance.sandboxd.slots)).toEqual([]);
  expect(await at.end()).toEqual([]);
}, 60_000);

test("at the end the host is as it was: mounts, cgroups, processes, files", async () => {
  const look = (inst: string) => ({
    mounts: readFileSync("/proc/self/mounts", "utf8").split("\n").sort(),
    cgroups: Bun.spawnSync(["find", "/sys/fs/cgroup", "-name", `cofferdam-${inst}`]).stdout.toString(),
    processes: readdirSync("/proc").filter((name) => /^\d+$/.test(name) && isRunsc(name, inst)),
    files: Bun.spawnSync([
      "find",
      `/run/cofferdam/${inst}`,
      "-type",
      "f",
      "-o",
      "-type",
      "s",
    ]).stdout.toString(),
  });
  const at = await stage(lib, { exec: { pool: 2 } });
  const { inst } = at.instance;
  await Promise.all(
    [at.namespace(), at.namespace()].map((namespace) => at.client.call("ensureSandbox", { namespace })),
  );
  const during = look(inst);
  expect(during.cgroups).not.toBe("");
  expect(during.processes).not.toEqual([]);
  const mine = (mount: string) => mount.includes(`/run/cofferdam/${inst}/`);
  expect(during.mounts.filter(mine)).not.toEqual([]);
  await at.end();
  expect(look(inst)).toEqual({
    mounts: during.mounts.filter((mount) => !mine(mount)),
    cgroups: "",
    processes: [],
    files: `/run/cofferdam/${inst}/lock\n`,
  });
}, 60_000);

/** A runsc process of this instance, which has its state directory among its arguments. */
function isRunsc(pid: string, inst: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(`/run/cofferdam/${inst}/`);
  } catch {
    return false;
  }
}

test("with directfs a volume is attached just the same, and a tenant has its full share of the CPU", async () => {
  const at = await stage(lib, { exec: { directfs: true, cpus: 1.5 } });
  const namespace = at.namespace();
  writeFileSync(join(at.live(namespace), "note"), "here");
  const { sandbox } = await at.client.call("ensureSandbox", { namespace });
  expect(await at.api.shell(sandbox, "cat /home/agent/workspace/note")).toBe("here");
  const cgroups = openCgroups();
  const cpu = (file: string) =>
    readFileSync(
      join(
        "/sys/fs/cgroup",
        cgroups.version === 1 ? "cpu" : "",
        `cofferdam-${at.instance.inst}`,
        sandbox,
        file,
      ),
      "utf8",
    ).trim();
  const share =
    cgroups.version === 1
      ? [cpu("cpu.shares"), cpu("cpu.cfs_quota_us")]
      : [cpu("cpu.weight"), cpu("cpu.max")];
  expect(share).toEqual(cgroups.version === 1 ? ["1024", "150000"] : ["100", "150000 100000"]);
  expect(await at.end()).toEqual([]);
}, 60_000);

test("remains that nobody claims are removed, what is claimed stays", async () => {
  const at = await stage(lib);
  const { sandbox } = await at.client.call("ensureSandbox", { namespace: at.namespace() });
  const claimed = at.left();
  const cgroups = openCgroups();
  const names = sandboxNames(at.instance, sandboxId.make());
  createSlot(names);
  cgroups.create(names.cgroup, { memoryBytes: 1 << 26, pids: 10, cpus: 1 });
  writeFileSync(names.runsc.state, "{}");
  const sleeper = Bun.spawn(["sleep", "1000"]);
  cgroups.join(names.cgroup, sleeper.pid);
  expect(at.left().length).toBeGreaterThan(claimed.length);
  await removeStrays(at.instance, cgroups, (id) => id === sandbox, at.log);
  expect(at.left()).toEqual(claimed);
  expect(await sleeper.exited).toBe(137);
  expect(await at.api.shell(sandbox, "echo alive")).toBe("alive\n");
  expect(await at.end()).toEqual([]);
}, 60_000);

test("an init that can't start is named in the failure, and a broken library stops the start", async () => {
  const broken = "/scratch/broken-lib";
  cpSync(lib, broken, { recursive: true });
  const lines: string[] = [];
  const keep = (_message: string, fields: object = {}) => void lines.push(JSON.stringify(fields));
  writeFileSync(
    join(broken, "runsc"),
    "#!/bin/sh\n[ $# = 1 ] && exit 0\necho no such platform >&2\nexit 1\n",
  );
  const at = await stage(broken, { log: { info: keep, warn: keep, error: keep } });
  await refusal(at.client.call("ensureSandbox", { namespace: at.namespace() }));
  expect(lines.join()).toContain("running: runsc ended before the sandbox ran: no such platform");
  expect(await at.end()).toEqual([]);
  chmodSync(join(broken, "runsc"), 0o777);
  expect(await refusal(stage(broken))).toContain("writable by root only");
  rmSync(join(broken, "rootfs.erofs"));
  chmodSync(join(broken, "runsc"), 0o755);
  expect(await refusal(stage(broken))).toContain("rootfs.erofs is missing");
}, 60_000);

test("a second sandboxd for the same instance does not start", async () => {
  const at = await stage(lib);
  expect(await refusal(at.start())).toContain("runs already");
  await at.client.call("ensureSandbox", { namespace: at.namespace() });
  expect(await at.end()).toEqual([]);
}, 60_000);

test("doctor looks at the host and boots a sandbox", async () => {
  const at = await stage(lib);
  const { checks } = await at.client.call("doctor", {});
  const found = Object.fromEntries(checks.map(({ name, status }) => [name, status]));
  for (const name of [
    "kernel",
    "runsc",
    "ip",
    "iptables",
    "network",
    "cgroups",
    "memory limit",
    "process limit",
    "sandbox",
  ]) {
    expect([name, found[name]]).toEqual([name, "ok"]);
  }
  const sh = (...argv: string[]) => Bun.spawnSync(argv);
  const network = async () => {
    const { checks } = await at.client.call("doctor", {});
    return checks.find(({ name }) => name === "network");
  };
  const foreign = ["PREROUTING", "-p", "tcp", "--dport", "4180", "-j", "DROP"];
  sh("iptables", "-t", "mangle", "-A", ...foreign);
  expect(await network()).toMatchObject({
    status: "fail",
    detail: expect.stringContaining("something else on this host drops its packets"),
  });
  sh("iptables", "-t", "mangle", "-D", ...foreign);
  sh("ip", "route", "add", "10.42.3.0/24", "dev", "lo");
  expect(await network()).toMatchObject({
    status: "fail",
    detail: expect.stringContaining("overlaps this host's route to 10.42.3.0/24 (lo)"),
  });
  sh("ip", "route", "del", "10.42.3.0/24", "dev", "lo");
  // A minimal host: that is no fault as long as no sandbox has a network.
  renameSync("/usr/sbin/iptables", "/usr/sbin/iptables.away");
  const minimal = await at.client.call("doctor", {});
  renameSync("/usr/sbin/iptables.away", "/usr/sbin/iptables");
  expect(minimal.checks.find(({ name }) => name === "iptables")).toMatchObject({
    status: "warn",
    fix: "apt-get install iptables",
  });
  expect(await at.end()).toEqual([]);
}, 60_000);
