import type { Config } from "../../config/schema.ts";
import { TENANT } from "../../kernel/users.ts";
import { OOM_SCORE_ADJ } from "../spec.ts";
import type { RunNames } from "./names.ts";
import { seccompProfile } from "./seccomp.ts";

const OPEN_FILES = 1024;
const MIB = 1024 * 1024;

/** runsc passes these over: its /proc and /sys are its own kernel's, and test/privileged/sandboxd/run tries each. */
const MASKED = [
  "/proc/acpi",
  "/proc/asound",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/scsi",
  "/proc/sched_debug",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/sys/devices/virtual/powercap",
  "/sys/firmware",
];
const READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/**
 * The user namespace of the gofer, which opens files for the sandbox: on the host it is uid 65534 with no capability, and
 * may do as it likes with files of the tenants' uid alone, of which it sees the worktree. (The sandbox makes its own,
 * with even less.)
 */
const GOFER_SEES = [
  { containerID: 0, hostID: 65_534, size: 1 },
  { containerID: TENANT.uid, hostID: TENANT.uid, size: 1 },
];

/**
 * The OCI spec of a run's sandbox. Nothing in it comes from a tenant or from api: the command, its environment and its
 * token go to the init through a FIFO. All in it is uid 10000 without a capability, from the first process on.
 */
export function runSpec(names: RunNames, rootImage: string, netns: string, runs: Config["runs"]) {
  const none: string[] = [];
  return {
    ociVersion: "1.0.2",
    hostname: "sandbox",
    process: {
      terminal: false,
      user: { ...TENANT },
      args: ["/sbin/cofferdam-run-init"],
      env: [],
      cwd: "/",
      capabilities: { bounding: none, effective: none, permitted: none, inheritable: none, ambient: none },
      noNewPrivileges: true,
      oomScoreAdj: OOM_SCORE_ADJ,
      rlimits: [
        { type: "RLIMIT_NOFILE", soft: OPEN_FILES, hard: OPEN_FILES },
        { type: "RLIMIT_NPROC", soft: runs.pids, hard: runs.pids },
        { type: "RLIMIT_CORE", soft: 0, hard: 0 },
      ],
    },
    root: { path: names.emptyRoot, readonly: true },
    annotations: { "dev.gvisor.spec.rootfs.source": rootImage, "dev.gvisor.spec.rootfs.type": "erofs" },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
      { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
      tmpfs("/tmp", "1777", runs),
      tmpfs("/dev/shm", "1777", runs),
      tmpfs("/home/agent", "0700", runs),
      { destination: "/work", type: "bind", source: names.work, options: ["bind", "rw", "nosuid", "nodev"] },
    ],
    linux: {
      cgroupsPath: `/${names.cgroup}`,
      namespaces: [
        ...["pid", "ipc", "uts", "mount"].map((type) => ({ type })),
        { type: "network", path: netns },
        { type: "user" },
      ],
      uidMappings: GOFER_SEES,
      gidMappings: GOFER_SEES,
      maskedPaths: MASKED,
      readonlyPaths: READ_ONLY,
      seccomp: seccompProfile,
    },
  };
}

/** It is the sandbox's memory. A quarter of that each, so that one that is full fails a write and not the sandbox. */
function tmpfs(destination: string, mode: string, { memory_mb }: Config["runs"]) {
  const size = Math.floor((memory_mb * MIB) / 4);
  const options = [
    "nosuid",
    "nodev",
    `mode=${mode}`,
    `uid=${TENANT.uid}`,
    `gid=${TENANT.gid}`,
    `size=${size}`,
  ];
  return { destination, type: "tmpfs", source: "tmpfs", options };
}

/**
 * pids.max for so many processes inside (RLIMIT_NPROC): one costs up to four tasks of the host's, and the whole sandbox
 * dies when the cgroup's limit is hit, so that the limit inside must bite first.
 */
export function hostTasks(processes: number): number {
  return processes * 4 + 128;
}

/** The descriptor at which runsc has the run's stderr; its own is the log. */
const RUN_STDERR_FD = 3;

export function runscArguments(names: RunNames): string[] {
  return [
    `--root=${names.runscRoot}`,
    "--platform=systrap",
    "--network=sandbox",
    "--overlay2=none",
    // Not an operator's choice as for exec: the sandbox's process is uid 65534, and opens no file of the host.
    "--directfs=false",
    // What a run wrote is on the host when it ends, however it ends; and a worktree may be filled after the boot.
    "--file-access-mounts=shared",
    "--oci-seccomp",
    "--gofer-network-namespace=new",
    "run",
    `--pass-fd=${RUN_STDERR_FD}:${RUN_STDERR_FD}`,
    `--bundle=${names.directory}`,
    names.id,
  ];
}
