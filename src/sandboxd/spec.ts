import type { Config } from "../config/schema.ts";
import type { SandboxNames } from "./names.ts";
import { seccompProfile } from "./seccomp.ts";

type Limits = Pick<Config, "exec" | "quota">;

/** All that the init needs to put a command into namespaces of its own, as uid 10000, and to end it. */
const INIT_CAPABILITIES = ["CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL"] as const;

/** Where a tenant's slot is mounted: the directory that a command finds `workspace/` in. */
const SLOT_IN_SANDBOX = "/home/agent";

/** Sandboxes die before anything else on the host when it runs out of memory. */
export const OOM_SCORE_ADJ = 900;

/** What a command's /tmp holds at most; the init's own default. */
const TMP_MB = 256;

/**
 * The OCI spec of an exec sandbox. Nothing in it comes from a tenant or from api. runsc ignores maskedPaths and
 * readonlyPaths: its /proc is its own kernel's and shows nothing of the host.
 */
export function sandboxSpec(names: SandboxNames, rootImage: string, { exec, quota }: Limits) {
  return {
    ociVersion: "1.0.2",
    hostname: "sandbox",
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: [
        "/sbin/cofferdam-init",
        "--nproc",
        `${processLimit(exec.pids)}`,
        "--fsize-mb",
        `${largestFileMb({ exec, quota })}`,
      ],
      env: [],
      cwd: "/",
      capabilities: {
        bounding: INIT_CAPABILITIES,
        effective: INIT_CAPABILITIES,
        permitted: INIT_CAPABILITIES,
        inheritable: [],
        ambient: [],
      },
      noNewPrivileges: true,
      oomScoreAdj: OOM_SCORE_ADJ,
      rlimits: [
        { type: "RLIMIT_NOFILE", soft: 1024, hard: 1024 },
        { type: "RLIMIT_CORE", soft: 0, hard: 0 },
      ],
    },
    root: { path: names.emptyRoot, readonly: true },
    // Without an overlay: EROFS is read-only by itself.
    annotations: { "dev.gvisor.spec.rootfs.source": rootImage, "dev.gvisor.spec.rootfs.type": "erofs" },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      {
        destination: SLOT_IN_SANDBOX,
        type: "bind",
        source: names.slot,
        // rslave: what is mounted on the host's slot later appears inside, nothing travels back.
        options: ["rbind", "rw", "rslave", "nosuid", "nodev"],
      },
    ],
    linux: {
      cgroupsPath: `/${names.cgroup}`,
      namespaces: ["pid", "ipc", "uts", "mount", "network"].map((type) => ({ type })),
      seccomp: seccompProfile,
    },
  };
}

/**
 * No file of a namespace is larger than all it may have. Not what is left of that: the limit is on where in a file is
 * written, and would forbid writing into one that is there. A file in /tmp may be as large as /tmp.
 */
export function largestFileMb({ exec, quota }: Limits): number {
  const quotas = [quota.namespace_mb, quota.workspace_mb].filter((mb) => mb > 0);
  return Math.min(exec.file_mb, Math.max(TMP_MB, Math.min(Infinity, ...quotas)));
}

/**
 * How many processes uid 10000 may have inside. One costs about 1.7 tasks outside and runsc needs some besides; since
 * the whole sandbox dies when the cgroup's pids.max is hit, the limit inside must bite first. Measured: 200 of 1024.
 */
export function processLimit(cgroupPids: number): number {
  return Math.max(8, Math.floor(cgroupPids / 5));
}

/** The runsc flags that every sandbox of an instance is started with. */
export function runscFlags(runscRoot: string, directfs: boolean): string[] {
  return [
    `--root=${runscRoot}`,
    "--platform=systrap",
    "--network=none",
    "--overlay2=none",
    `--directfs=${directfs}`,
    // The API writes to the same files: "exclusive" would never see that.
    "--file-access-mounts=shared",
    // Without it the spec's profile is silently ignored.
    "--oci-seccomp",
    // A namespace for each gofer: the shared one would stay mounted after the last sandbox.
    "--gofer-network-namespace=new",
  ];
}
