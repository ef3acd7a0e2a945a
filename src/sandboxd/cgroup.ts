import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { signalPid } from "./process.ts";

export interface SandboxLimits {
  readonly memoryBytes: number;
  readonly pids: number;
  readonly cpus: number;
  /** Of 1000, 100 being anybody's; where the kernel shares a disk by weight. */
  readonly ioWeight?: number;
}

type Controller = "memory" | "pids" | "cpu" | "cpuacct" | "blkio";

interface Setting {
  readonly controller: Controller;
  readonly file: string;
  readonly value: string;
  /** A kernel may lack it (swap accounting, say) without the limit losing its bite. */
  readonly optional?: boolean;
}

/** Opened to write, never created: a control file that is not there is an error. */
const EXISTING = { flag: "r+" };
const CPU_PERIOD_US = 100_000;
const GONE = new Set(["ENOENT", "ENODEV"]);

function v1Settings({ memoryBytes, pids, cpus, ioWeight = 100 }: SandboxLimits): Setting[] {
  return [
    // The two together may not be less than the first alone, whichever way they are moved.
    { controller: "memory", file: "memory.memsw.limit_in_bytes", value: "-1", optional: true },
    { controller: "memory", file: "memory.limit_in_bytes", value: `${memoryBytes}` },
    { controller: "memory", file: "memory.memsw.limit_in_bytes", value: `${memoryBytes}`, optional: true },
    { controller: "pids", file: "pids.max", value: `${pids}` },
    { controller: "cpu", file: "cpu.cfs_period_us", value: `${CPU_PERIOD_US}` },
    { controller: "cpu", file: "cpu.cfs_quota_us", value: `${Math.round(cpus * CPU_PERIOD_US)}` },
    { controller: "blkio", file: "blkio.bfq.weight", value: `${ioWeight}`, optional: true },
  ];
}

function v2Settings({ memoryBytes, pids, cpus, ioWeight = 100 }: SandboxLimits): Setting[] {
  return [
    { controller: "memory", file: "memory.max", value: `${memoryBytes}` },
    { controller: "memory", file: "memory.swap.max", value: "0", optional: true },
    { controller: "memory", file: "memory.oom.group", value: "1", optional: true },
    { controller: "pids", file: "pids.max", value: `${pids}` },
    { controller: "cpu", file: "cpu.max", value: `${Math.round(cpus * CPU_PERIOD_US)} ${CPU_PERIOD_US}` },
    { controller: "blkio", file: "io.weight", value: `default ${ioWeight}`, optional: true },
    { controller: "blkio", file: "io.bfq.weight", value: `default ${ioWeight}`, optional: true },
  ];
}

/** Share of the CPU when others want it too. A spare boots and waits behind the sandboxes that have work. */
export type Priority = "spare" | "tenant";

interface Layout {
  readonly version: 1 | 2;
  readonly settings: (limits: SandboxLimits) => Setting[];
  readonly weight: Record<Priority, Setting>;
  /** What keeps a group's memory out of swap. */
  readonly unswapped: Setting;
  readonly oomEvents: string;
  readonly memoryUsage: string;
  readonly memoryLimit: string;
  /** The line of memory.stat that counts pages of files that nobody uses. */
  readonly idleCache: string;
  readonly memoryPeak: string;
  readonly cpuUsage: Pick<Setting, "controller" | "file"> & { readonly ms: (text: string) => number };
  /** Lines of memory.stat: pages of files that the disk does not have yet. */
  readonly dirty: readonly string[];
}

const V1: Layout = {
  version: 1,
  settings: v1Settings,
  weight: {
    spare: { controller: "cpu", file: "cpu.shares", value: "64" },
    tenant: { controller: "cpu", file: "cpu.shares", value: "1024" },
  },
  unswapped: { controller: "memory", file: "memory.swappiness", value: "0" },
  oomEvents: "memory.oom_control",
  memoryUsage: "memory.usage_in_bytes",
  memoryLimit: "memory.limit_in_bytes",
  idleCache: "total_inactive_file",
  memoryPeak: "memory.max_usage_in_bytes",
  cpuUsage: { controller: "cpuacct", file: "cpuacct.usage", ms: (text) => Number(text) / 1e6 },
  dirty: ["total_dirty", "total_writeback"],
};

const V2: Layout = {
  version: 2,
  settings: v2Settings,
  weight: {
    spare: { controller: "cpu", file: "cpu.weight", value: "6" },
    tenant: { controller: "cpu", file: "cpu.weight", value: "100" },
  },
  unswapped: { controller: "memory", file: "memory.swap.max", value: "0" },
  oomEvents: "memory.events",
  memoryUsage: "memory.current",
  memoryLimit: "memory.max",
  idleCache: "inactive_file",
  memoryPeak: "memory.peak",
  cpuUsage: {
    controller: "cpu",
    file: "cpu.stat",
    ms: (text) => Number(/^usage_usec (\d+)$/m.exec(text)?.[1]) / 1000,
  },
  dirty: ["file_dirty", "file_writeback"],
};

export type Cgroups = ReturnType<typeof openCgroups>;

/**
 * The host's cgroups, version 1 or 2, whichever is at /sys/fs/cgroup (what runsc looks at too). sandboxd makes a
 * sandbox's cgroup and sets its limits before runsc starts: runsc joins one that exists as it is and never removes it,
 * so the limits are in force before the first process and the counters can be read after the last.
 */
export function openCgroups(
  mountinfo: string = readFileSync("/proc/self/mountinfo", "utf8"),
  top = "/sys/fs/cgroup",
) {
  const mounts = cgroupMounts(mountinfo, top);
  const unified = mounts.find(({ type, point }) => type === "cgroup2" && point === top);
  const layout = unified === undefined ? V1 : V2;
  const hierarchies = unified === undefined ? mounts.map(({ point }) => point) : [top];

  function find(controller: Controller): string | undefined {
    if (unified !== undefined) return top;
    return mounts.find(({ type, options }) => type === "cgroup" && options.includes(controller))?.point;
  }

  function hierarchy(controller: Controller): string {
    const point = find(controller);
    if (point === undefined)
      throw new Error(`this host has no ${controller} cgroup, so no limit would be in force`);
    return point;
  }

  function fileOf(path: string, { controller, file }: Pick<Setting, "controller" | "file">): string {
    return join(hierarchy(controller), path, file);
  }

  function apply(path: string, setting: Setting): void {
    if (setting.optional === true && find(setting.controller) === undefined) return;
    const file = fileOf(path, setting);
    try {
      writeFileSync(file, setting.value, EXISTING);
    } catch (error) {
      if (setting.optional === true) return;
      throw new Error(`the limit ${setting.file} can't be set in ${file}`, { cause: error });
    }
    const now = readFileSync(file, "utf8").trim();
    if (now !== setting.value && setting.optional !== true) {
      throw new Error(`the limit ${setting.file} reads ${now} after ${setting.value} was written to ${file}`);
    }
  }

  /** Version 2 lets a group have only the controllers that its parent hands down. */
  function handDown(directory: string): void {
    const control = join(directory, "cgroup.subtree_control");
    const on = new Set(readFileSync(control, "utf8").trim().split(" "));
    const missing = ["memory", "pids", "cpu"].filter((controller) => !on.has(controller));
    if (!on.has("io")) tryToHandDownIo(control);
    if (missing.length === 0) return;
    try {
      writeFileSync(control, missing.map((controller) => `+${controller}`).join(" "), EXISTING);
    } catch (error) {
      throw new Error(`the cgroup controllers ${missing.join(", ")} can't be enabled in ${control}`, {
        cause: error,
      });
    }
  }

  /** A kernel may lack it, and then nothing is shared by weight. */
  function tryToHandDownIo(control: string): void {
    try {
      writeFileSync(control, "+io", EXISTING);
    } catch {
      // Not there, or not ours to give.
    }
  }

  /** Which files hold these limits, and what is in them; null where this kernel has no such file. */
  function limitsAt(path: string, limits: SandboxLimits) {
    // Of two values of one file the first is only for the way from one limit to another.
    const last = new Map(layout.settings(limits).map((setting) => [setting.file, setting]));
    return [...last.values()].map(({ controller, file, value: wanted, optional = false }) => {
      const point = find(controller);
      const where = join(point ?? "", path, file);
      return {
        file: where,
        wanted,
        optional,
        value: point === undefined ? null : (readIfThere(where)?.trim() ?? null),
      };
    });
  }

  function processes(path: string): number[] {
    const pids = hierarchies.flatMap((point) => readPids(join(point, path, "cgroup.procs")));
    return [...new Set(pids)];
  }

  return {
    version: layout.version,

    /** Makes the group with its limits, each read back; throws when one is not in force. */
    create(path: string, limits: SandboxLimits): void {
      const parent = path.slice(0, path.lastIndexOf("/"));
      if (unified !== undefined) {
        handDown(top);
        mkdirSync(join(top, parent), { recursive: true });
        handDown(join(top, parent));
      }
      for (const controller of ["memory", "pids", "cpu"] as const) {
        mkdirSync(join(hierarchy(controller), path), { recursive: true });
      }
      // runsc joins these too, and would take away those that it had to make before they can be read.
      for (const point of ["cpuacct", "blkio"].map((controller) => find(controller as Controller)))
        if (point !== undefined) mkdirSync(join(point, path), { recursive: true });
      for (const setting of layout.settings(limits)) apply(path, setting);
    },

    /** Other limits for a group that is there, which may have processes. */
    limit(path: string, limits: SandboxLimits): void {
      for (const setting of layout.settings(limits)) apply(path, setting);
    },

    /** What of these limits is not in force, as the kernel shows it. */
    missing(path: string, limits: SandboxLimits): string[] {
      return limitsAt(path, limits)
        .filter(({ value, wanted, optional }) => value !== wanted && !(value === null && optional))
        .map(({ file, value, wanted }) => `${basename(file)} is ${value ?? "absent"}, not ${wanted}`);
    },

    limits: limitsAt,

    setPriority(path: string, priority: Priority): void {
      apply(path, layout.weight[priority]);
    },

    join(path: string, pid: number): void {
      for (const controller of ["memory", "pids", "cpu"] as const) {
        writeFileSync(fileOf(path, { controller, file: "cgroup.procs" }), `${pid}`, EXISTING);
      }
    },

    /**
     * Puts a process into a group of its own that may have so much memory, and whose memory is never swapped out. Throws where
     * there is no such thing.
     */
    keepFromSwap(path: string, pid: number, memoryBytes: number): void {
      if (unified !== undefined) {
        handDown(top);
        mkdirSync(join(top, path, ".."), { recursive: true });
        handDown(join(top, path, ".."));
      }
      mkdirSync(join(hierarchy("memory"), path), { recursive: true });
      apply(path, layout.unswapped);
      apply(path, { controller: "memory", file: layout.memoryLimit, value: `${memoryBytes}` });
      writeFileSync(fileOf(path, { controller: "memory", file: "cgroup.procs" }), `${pid}`, EXISTING);
    },

    /** Throws unless the process is in the group under each controller, so that the limits are its own. */
    verifyMember(path: string, pid: number): void {
      for (const controller of ["memory", "pids", "cpu"] as const) {
        const procs = fileOf(path, { controller, file: "cgroup.procs" });
        if (!readPids(procs).includes(pid))
          throw new Error(`process ${pid} is not in ${procs}: its limits would not hold`);
      }
    },

    /** Whether the kernel killed a process of the group for want of memory. */
    oomKilled(path: string): boolean {
      const text = readIfThere(fileOf(path, { controller: "memory", file: layout.oomEvents }));
      return Number(/^oom_kill (\d+)$/m.exec(text ?? "")?.[1] ?? 0) > 0;
    },

    tasks(path: string): number | null {
      const text = readIfThere(fileOf(path, { controller: "pids", file: "pids.current" }));
      return text === undefined ? null : Number(text);
    },

    memoryBytes(path: string): number | null {
      const text = readIfThere(fileOf(path, { controller: "memory", file: layout.memoryUsage }));
      return text === undefined ? null : Number(text);
    },

    /** What is left below its limit, counting what the kernel would give up at once; null where there is no limit. */
    memoryLeft(path: string): number | null {
      const read = (file: string) => readIfThere(fileOf(path, { controller: "memory", file }));
      const [limit, usage] = [Number(read(layout.memoryLimit)), Number(read(layout.memoryUsage))];
      const stat = read("memory.stat") ?? "";
      const cache = Number(new RegExp(`^${layout.idleCache} (\\d+)$`, "m").exec(stat)?.[1] ?? 0);
      return Number.isFinite(limit) && Number.isFinite(usage) ? limit - usage + cache : null;
    },

    /** The most that it ever had at a time; null where the kernel does not tell. */
    peakMemoryBytes(path: string): number | null {
      const text = readIfThere(fileOf(path, { controller: "memory", file: layout.memoryPeak }));
      return text === undefined ? null : Number(text);
    },

    cpuMs(path: string): number | null {
      if (find(layout.cpuUsage.controller) === undefined) return null;
      const text = readIfThere(fileOf(path, layout.cpuUsage));
      return text === undefined ? null : Math.round(layout.cpuUsage.ms(text));
    },

    dirtyBytes(path: string): number {
      const text = readIfThere(fileOf(path, { controller: "memory", file: "memory.stat" })) ?? "";
      const lines = text.split("\n").map((line) => line.split(" "));
      return lines.reduce(
        (sum, [name = "", bytes]) => (layout.dirty.includes(name) ? sum + Number(bytes) : sum),
        0,
      );
    },

    processes,

    /** Kills what is in the group until nothing is left, then removes it from every hierarchy. */
    async remove(path: string, timeoutMs: number): Promise<void> {
      const deadline = Date.now() + timeoutMs;
      for (;;) {
        const pids = processes(path);
        if (pids.length === 0) break;
        if (Date.now() > deadline)
          throw new Error(`processes ${pids.join(", ")} of cgroup ${path} do not end`);
        // 0 is a process that this PID namespace can't see, and kill(0) would be ourselves.
        for (const pid of pids) if (pid > 0) signalPid(pid);
        await sleep(2);
      }
      const left = hierarchies.map((point) => join(point, path));
      for (;;) {
        const busy = left.filter((directory) => !removeDirectory(directory));
        if (busy.length === 0) return;
        if (Date.now() > deadline) throw new Error(`cgroup directories stay busy: ${busy.join(", ")}`);
        left.splice(0, left.length, ...busy);
        await sleep(2);
      }
    },

    /** The groups in `parent`, in any hierarchy. */
    children(parent: string): string[] {
      return [...new Set(hierarchies.flatMap((point) => childDirectories(join(point, parent))))];
    },

    /** Removes `parent` where it has no group in it. */
    removeEmpty(parent: string): void {
      for (const point of hierarchies) removeDirectory(join(point, parent));
    },
  };
}

function cgroupMounts(mountinfo: string, top: string) {
  return mountinfo
    .split("\n")
    .map((line) => {
      const [before = "", after = ""] = line.split(" - ");
      const [type = "", , options = ""] = after.split(" ");
      return { point: before.split(" ")[4] ?? "", type, options: options.split(",") };
    })
    .filter(({ type, point }) => type.startsWith("cgroup") && (point === top || point.startsWith(`${top}/`)));
}

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if (GONE.has((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}

function readPids(file: string): number[] {
  const text = readIfThere(file) ?? "";
  return text.split("\n").filter(Boolean).map(Number);
}

function childDirectories(directory: string): string[] {
  try {
    const entries = readdirSync(directory, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  } catch (error) {
    if (GONE.has((error as NodeJS.ErrnoException).code ?? "")) return [];
    throw error;
  }
}

/** False while the kernel still counts someone in it. */
function removeDirectory(directory: string): boolean {
  try {
    rmdirSync(directory);
    return true;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    if (GONE.has(code)) return true;
    if (code === "EBUSY" || code === "ENOTEMPTY") return false;
    throw error;
  }
}
