import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { z } from "zod";
import type { LiveRun } from "./run.ts";
import { pairs, see, type Section } from "./section.ts";

const limit = z.object({ type: z.string(), soft: z.number(), hard: z.number() });
const mount = z.object({
  destination: z.string(),
  type: z.string(),
  source: z.string(),
  options: z.array(z.string()),
});
const rule = z.object({
  names: z.array(z.string()),
  action: z.string(),
  args: z.array(z.unknown()).optional(),
});

/** What is looked at of it; runsc has all. */
const spec = z.object({
  hostname: z.string(),
  process: z.object({
    user: z.object({ uid: z.int(), gid: z.int() }),
    args: z.array(z.string()),
    env: z.array(z.string()),
    capabilities: z.record(z.string(), z.array(z.string())),
    noNewPrivileges: z.boolean(),
    rlimits: z.array(limit),
  }),
  root: z.object({ readonly: z.boolean() }),
  annotations: z.record(z.string(), z.string()),
  mounts: z.array(mount),
  linux: z.object({
    cgroupsPath: z.string(),
    namespaces: z.array(z.object({ type: z.string(), path: z.string().optional() })),
    maskedPaths: z.array(z.string()),
    readonlyPaths: z.array(z.string()),
    seccomp: z.object({
      defaultAction: z.string(),
      architectures: z.array(z.string()),
      syscalls: z.array(rule),
    }),
  }),
});

/** Calls that no profile of a run may have. */
const CATASTROPHIC = [
  ..."mount umount2 pivot_root move_mount open_tree fsopen fsmount mount_setattr chroot unshare setns".split(
    " ",
  ),
  ..."kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff bpf".split(" "),
  ..."ptrace process_vm_readv process_vm_writev keyctl add_key request_key perf_event_open userfaultfd".split(
    " ",
  ),
  ..."io_uring_setup open_by_handle_at settimeofday clock_settime iopl ioperm acct quotactl syslog".split(
    " ",
  ),
];
const NAMESPACES = ["ipc", "mount", "network", "pid", "user", "uts"];

export async function specSection({ names, onRecord }: LiveRun): Promise<Section> {
  return see({
    name: "spec",
    title: "The sandbox's specification",
    claim:
      "It runs what was written into its receipt: uid 10000 with no capability from the first process on, a read-only root, a system call profile that answers an error to all it does not name, and nothing of the tenant's in it.",
    by_hand: [
      `sha256sum ${names.spec}`,
      `jq -cj .linux.seccomp ${names.spec} | sha256sum`,
      `jq '.process, .mounts, .linux.maskedPaths, .linux.readonlyPaths' ${names.spec}`,
    ],
    look: () => {
      const text = readFileSync(names.spec, "utf8");
      const whole: unknown = JSON.parse(text);
      const { process, root, mounts, linux, annotations } = spec.parse(whole);
      const { seccomp } = linux;
      const allowed = new Set(
        seccomp.syscalls.filter(({ action }) => action === "SCMP_ACT_ALLOW").flatMap(({ names }) => names),
      );
      const conditional = seccomp.syscalls
        .filter(({ args }) => (args ?? []).length > 0)
        .flatMap(({ names }) => names);
      const facts = {
        spec_sha256: sha256(text),
        seccomp_sha256: sha256(JSON.stringify((whole as { linux: { seccomp: unknown } }).linux.seccomp)),
        on_record: onRecord.sandbox,
        user: process.user,
        first_process: process.args,
        env: process.env,
        capabilities: process.capabilities,
        no_new_privileges: process.noNewPrivileges,
        rlimits: process.rlimits,
        root: { read_only: root.readonly, image: annotations["dev.gvisor.spec.rootfs.source"] ?? null },
        mounts,
        namespaces: linux.namespaces,
        masked_paths: linux.maskedPaths,
        read_only_paths: linux.readonlyPaths,
        seccomp: {
          default_action: seccomp.defaultAction,
          allowed: allowed.size,
          with_conditions: conditional,
          denied: CATASTROPHIC.filter((name) => !allowed.has(name)),
        },
      };
      const has = (ok: boolean, what: string) => (ok ? [] : [what]);
      const writable = mounts.filter(({ options, type }) => !options.includes("ro") && type !== "proc");
      return {
        facts,
        lines: linesOf(facts),
        wrong: [
          ...has(facts.spec_sha256 === onRecord.sandbox?.spec_sha256, "it is not the one on record"),
          ...has(
            facts.seccomp_sha256 === onRecord.sandbox?.seccomp_sha256,
            "the profile is not the one on record",
          ),
          ...has(
            process.user.uid === 10_000 && process.user.gid === 10_000,
            "it does not begin as uid 10000",
          ),
          ...has(
            Object.values(process.capabilities).every((set) => set.length === 0),
            "it has capabilities",
          ),
          ...has(process.noNewPrivileges, "it may gain privileges"),
          ...has(process.env.length === 0, "it has an environment"),
          ...has(root.readonly, "its root is writable"),
          ...has(
            writable.every(({ type, destination }) => type === "tmpfs" || destination === "/work"),
            "more than its worktree and its memory is writable",
          ),
          ...has(
            NAMESPACES.every((kind) => linux.namespaces.some(({ type }) => type === kind)),
            "it shares namespaces",
          ),
          ...has(
            seccomp.defaultAction === "SCMP_ACT_ERRNO",
            "calls that the profile does not name are let through",
          ),
          ...CATASTROPHIC.filter((name) => allowed.has(name)).map((name) => `the profile allows ${name}`),
        ],
      };
    },
  });
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

interface Facts {
  readonly spec_sha256: string;
  readonly seccomp_sha256: string;
  readonly user: { readonly uid: number; readonly gid: number };
  readonly first_process: readonly string[];
  readonly capabilities: Readonly<Record<string, readonly string[]>>;
  readonly no_new_privileges: boolean;
  readonly rlimits: readonly z.infer<typeof limit>[];
  readonly mounts: readonly z.infer<typeof mount>[];
  readonly masked_paths: readonly string[];
  readonly read_only_paths: readonly string[];
  readonly seccomp: {
    readonly default_action: string;
    readonly allowed: number;
    readonly denied: readonly string[];
  };
}

function linesOf(facts: Facts): string[] {
  const sets = Object.entries(facts.capabilities).map(([name, set]) => `${name} ${set.length}`);
  const { default_action, allowed, denied } = facts.seccomp;
  return pairs([
    ["sha256", facts.spec_sha256],
    ["seccomp sha256", facts.seccomp_sha256],
    ["first process", `${facts.first_process.join(" ")}, uid ${facts.user.uid}, gid ${facts.user.gid}`],
    ["capabilities", sets.join(", ")],
    ["no_new_privs", facts.no_new_privileges ? "1" : "0"],
    ["limits", facts.rlimits.map(({ type, hard }) => `${type.replace("RLIMIT_", "")} ${hard}`).join(", ")],
    ["system calls", `${allowed} named and allowed, all others ${default_action}`],
    ["not allowed", denied.join(" ")],
    ...facts.mounts.map(
      ({ destination, type, options }) => ["mount", `${destination} ${type} ${options.join(",")}`] as const,
    ),
    ["masked", facts.masked_paths.join(" ")],
    ["read-only", facts.read_only_paths.join(" ")],
  ]);
}
