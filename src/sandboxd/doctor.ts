import { readFileSync } from "node:fs";
import { release } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import type { Config } from "../config/schema.ts";
import type { Instance } from "../instance/instance.ts";
import { isBelowFloor, statfs } from "../kernel/statfs.ts";
import type { Check } from "../protocol/sandboxd.ts";
import type { Cgroups } from "./cgroup.ts";
import { explain } from "../protocol/lines/failure.ts";
import type { Library } from "./library.ts";
import { cgroupParent } from "./names.ts";
import { vethPrefix } from "./network/names.ts";
import type { Networks } from "./network/networks.ts";
import { probeNetwork } from "./network/probe.ts";
import { HOST_ENV, type Runner } from "./runner.ts";

export interface DoctorDeps {
  readonly instance: Instance;
  readonly config: Config;
  readonly cgroups: Cgroups;
  readonly library: Library;
  readonly run: Runner;
  readonly networks: Networks;
  /** Boots a sandbox as any other and removes it again. */
  readonly probeBoot: () => Promise<void>;
  readonly memoryAvailable: () => number;
}

type Finding = Pick<Check, "status" | "detail" | "fix">;

const MIB = 1024 * 1024;
const COMMAND_TIMEOUT_MS = 10_000;

const ok = (detail: string): Finding => ({ status: "ok", detail, fix: null });
const warn = (detail: string, fix: string): Finding => ({ status: "warn", detail, fix });
const fail = (detail: string, fix: string): Finding => ({ status: "fail", detail, fix });

/** Looks at all that a sandbox needs of this host. Each finding is tried, not read off a version where that can be. */
export async function examine(deps: DoctorDeps): Promise<Check[]> {
  const checks: Check[] = [];
  const look = async (name: string, find: () => Finding | Promise<Finding>, fix: string) => {
    let finding: Finding;
    try {
      finding = await find();
    } catch (error) {
      finding = fail(explain(error), fix);
    }
    checks.push({ name, ...finding });
  };

  await look("kernel", kernel, "Run a kernel of version 5.12 or newer: Debian 12 and Ubuntu 24.04 have one.");
  await look("users", users, "Run install.sh again; it makes the users.");
  await look("runsc", () => runsc(deps), "Run install.sh again; it brings a runsc that works.");
  const ip = await networkTool(deps, ["ip", "-V"], "iproute2");
  const iptables = await networkTool(deps, ["iptables", "--version"], "iptables");
  checks.push({ name: "ip", ...ip }, { name: "iptables", ...iptables });
  if (ip.status === "ok" && iptables.status === "ok") {
    await look("network", () => runNetwork(deps), "The finding says which step failed.");
  }
  await look("cgroups", () => cgroupLimits(deps), CGROUP_FIX);
  await look("memory limit", () => memoryBites(deps), CGROUP_FIX);
  await look("process limit", () => processesBite(deps), CGROUP_FIX);
  await look("memory", () => memory(deps), "Free memory, or lower [exec] memory_mb and warm.");
  await look("disk", () => disk(deps), "Free space on the data directory's disk.");
  await look(
    "sandbox",
    () => bootedSandbox(deps),
    "The finding says which step failed; runsc and cgroups above may say why.",
  );
  return checks;
}

const CGROUP_FIX =
  "Give sandboxd a host with writable cgroups whose memory, pids and cpu controllers are on: cgroup v2 alone, or v1 with each of the three mounted.";

function kernel(): Finding {
  const version = release();
  const [major = 0, minor = 0] = version.split(".").map(Number);
  const modern = major > 5 || (major === 5 && minor >= 12);
  if (!modern) return fail(`Linux ${version} lacks mount_setattr`, "Run a kernel of version 5.12 or newer.");
  return ok(`Linux ${version}`);
}

function users(): Finding {
  const passwd = readFileSync("/etc/passwd", "utf8");
  const names = ["cofferdam", "cofferdam-gw", "cofferdam-tenant"];
  const missing = names.filter((name) => !passwd.split("\n").some((line) => line.startsWith(`${name}:`)));
  if (missing.length === 0) return ok(names.join(", "));
  return fail(`missing: ${missing.join(", ")}`, "Run install.sh again; it makes the users.");
}

async function runsc({ library, run }: DoctorDeps): Promise<Finding> {
  const text = await run([library.runsc, "--version"], { timeoutMs: COMMAND_TIMEOUT_MS });
  return ok(`${library.runsc}: ${(text.split("\n")[0] ?? "").replace("runsc version ", "")}`);
}

/** A minimal host that was installed from a release, without a network, lacks it. */
async function networkTool({ run }: DoctorDeps, argv: readonly string[], debian: string): Promise<Finding> {
  try {
    return ok((await run(argv, { timeoutMs: COMMAND_TIMEOUT_MS })).trim().split("\n")[0] ?? "");
  } catch (error) {
    const detail = `${explain(error)} (runs need it, and none can be started)`;
    return warn(detail, `apt-get install ${debian}`);
  }
}

/** A network as a run's, tried from inside. */
async function runNetwork({ networks, instance, config, run }: DoctorDeps): Promise<Finding> {
  const port = config.runs.gateway_port;
  const problem = await networks.problem();
  if (problem !== null)
    return fail(problem, "Set it, and restart sandboxd. Until then no run can be started.");
  const started = performance.now();
  const { gateway, other } = await probeNetwork(networks, { run, gatewayPort: port });
  if (other) {
    return fail(
      "a run's network reached a port of this host that is not the gateway's: the packet filter does not hold",
      "Look at what else changes this host's packet filter, with iptables-save and nft list ruleset.",
    );
  }
  if (!gateway) {
    return fail(
      "a run's network does not reach the gateway's port: something else on this host drops its packets",
      `Let interfaces ${vethPrefix(instance.inst)}* in at TCP ports ${port} and ${port + 1}, in firewalld or nftables, say.`,
    );
  }
  const ms = Math.round(performance.now() - started);
  return ok(`a run's reaches port ${port} and not ${port - 1}; made, tried and removed in ${ms} ms`);
}

async function withProbeGroup<T>(
  { instance, cgroups }: DoctorDeps,
  memoryMb: number,
  pids: number,
  act: (path: string) => Promise<T>,
): Promise<T> {
  const path = `${cgroupParent(instance)}/doctor-${crypto.randomUUID().slice(0, 8)}`;
  try {
    cgroups.create(path, { memoryBytes: memoryMb * MIB, pids, cpus: 1 });
    return await act(path);
  } finally {
    await cgroups.remove(path, COMMAND_TIMEOUT_MS);
  }
}

async function cgroupLimits(deps: DoctorDeps): Promise<Finding> {
  return await withProbeGroup(deps, 64, 64, async () =>
    ok(`version ${deps.cgroups.version}: memory, pids and cpu limits can be set`),
  );
}

/** A program that eats 64 MiB in a group of 16 must be killed: a limit that can be written may still not bite. */
async function memoryBites(deps: DoctorDeps): Promise<Finding> {
  return await withProbeGroup(deps, 16, 64, async (path) => {
    const eater = Bun.spawn(["tail", "-c", `${64 * MIB}`], {
      stdin: "pipe",
      stdout: "ignore",
      stderr: "ignore",
      env: HOST_ENV,
    });
    try {
      deps.cgroups.join(path, eater.pid);
      const zeros = new Uint8Array(MIB);
      for (let mib = 0; mib < 64 && eater.exitCode === null && eater.signalCode === null; mib++) {
        await Promise.race([eater.stdin.write(zeros), eater.exited]);
        await Promise.race([eater.stdin.flush(), eater.exited]);
      }
      await Promise.race([eater.stdin.end(), eater.exited]);
    } catch {
      // The pipe broke: its reader is dead, which is what this is about.
    }
    await Promise.race([eater.exited, sleep(COMMAND_TIMEOUT_MS)]);
    eater.kill("SIGKILL");
    if (deps.cgroups.oomKilled(path)) return ok("a process over the limit is killed");
    return fail(
      "a process used four times its group's limit and lived: limits are not enforced here",
      CGROUP_FIX,
    );
  });
}

/** A shell in a group that may hold one process must fail to start another. */
async function processesBite(deps: DoctorDeps): Promise<Finding> {
  return await withProbeGroup(deps, 64, 1, async (path) => {
    const shell = Bun.spawn(["sh"], { stdin: "pipe", stdout: "pipe", stderr: "ignore", env: HOST_ENV });
    deps.cgroups.join(path, shell.pid);
    await shell.stdin.write("/bin/echo forked\n");
    await shell.stdin.end();
    const timer = setTimeout(() => shell.kill("SIGKILL"), COMMAND_TIMEOUT_MS);
    const output = await new Response(shell.stdout).text();
    clearTimeout(timer);
    if (!output.includes("forked")) return ok("a process over the limit is refused");
    return fail("a group that may hold one process held two: limits are not enforced here", CGROUP_FIX);
  });
}

function memory({ config, memoryAvailable }: DoctorDeps): Finding {
  const availableMb = Math.floor(memoryAvailable() / MIB);
  const detail = `${availableMb} MiB available, ${config.exec.memory_mb} MiB at most for a sandbox`;
  if (availableMb >= config.exec.memory_mb) return ok(detail);
  return warn(detail, "Free memory, or lower [exec] memory_mb and warm.");
}

function disk({ instance, config }: DoctorDeps): Finding {
  const status = statfs(instance.data);
  const freeMb = Math.floor(status.availableBytes / MIB);
  const floorMb = config.quota.disk_floor_mb;
  const detail = `${freeMb} MiB free under ${instance.data}, writes stop at ${floorMb} MiB`;
  if (freeMb >= floorMb && isBelowFloor(status, floorMb * MIB)) {
    return fail(
      `${status.freeFiles} of ${status.totalFiles} inodes are free under ${instance.data}, and writes have stopped`,
      "Delete files: the file system has nearly all that it can hold.",
    );
  }
  if (freeMb < floorMb) return fail(detail, "Free space, or lower [quota] disk_floor_mb.");
  if (freeMb < floorMb * 2) return warn(detail, "Free space soon.");
  return ok(detail);
}

async function bootedSandbox({ probeBoot }: DoctorDeps): Promise<Finding> {
  const started = performance.now();
  await probeBoot();
  return ok(`booted, limits in force, removed, in ${Math.round(performance.now() - started)} ms`);
}
