import { statSync } from "node:fs";
import { childrenOf, procText } from "../kernel/process.ts";
import { readRecord } from "../sandboxd/run/record.ts";
import { runscPart } from "../sandboxd/runsc.ts";
import { mountsOf, processFacts, type ProcessFacts } from "./process.ts";
import type { LiveRun } from "./run.ts";
import { see, type Section } from "./section.ts";

const NOBODY = "65534";
const NONE = "0".repeat(16);

/** The two that are root start and wait, the others hold what the tenant runs. */
const ROLES = ["shim", "runsc", "gofer", "sandbox", "task"] as const;
type Role = (typeof ROLES)[number];

export interface RoleFacts extends ProcessFacts {
  readonly role: Role;
}

export function processesOf({ names, host }: LiveRun): RoleFacts[] {
  const shim = readRecord(names)?.process.pid;
  if (shim === undefined) throw new Error(`${names.record} is missing: sandboxd has no such run`);
  const pids = [shim, ...childrenOf(shim), ...host.cgroups.processes(names.cgroup)];
  return [...new Set(pids)].flatMap((pid) => {
    const facts = processFacts(pid);
    return facts === undefined ? [] : [{ role: roleOf(facts, shim), ...facts }];
  });
}

function roleOf({ pid, argv }: ProcessFacts, shim: number): Role {
  if (pid === shim) return "shim";
  const isRunsc = argv.includes("run") && argv[0]?.endsWith("/runsc") === true;
  return runscPart(argv) ?? (isRunsc ? "runsc" : "task");
}

export async function processSection(run: LiveRun): Promise<Section> {
  return see({
    name: "processes",
    title: "Processes on the host",
    claim:
      "What a tenant's code can reach on the host is uid 65534 with no capability there, cannot gain any, and runs under runsc's own seccomp filter in namespaces of its own.",
    by_hand: [
      `cat /proc/$(pgrep -f '[r]unsc-sandbox.*${run.id}')/status | grep -E 'Uid|Cap|NoNewPrivs|Seccomp:'`,
      `ls -l /proc/$(pgrep -f '[r]unsc-sandbox.*${run.id}')/ns; ls -l /proc/self/ns`,
    ],
    look: () => {
      const all = processesOf(run);
      const netns = `${statSync(run.names.net.netnsPath).ino}`;
      return { facts: { processes: all, netns }, lines: treeOf(all), wrong: wrongIn(all, netns) };
    },
  });
}

function wrongIn(all: readonly RoleFacts[], netns: string): string[] {
  const missing = ROLES.filter((role) => role !== "task" && !all.some((one) => one.role === role));
  return [
    ...missing.map((role) => `there is no ${role}`),
    ...all.flatMap((one) => {
      const { role, pid } = one;
      if (role === "shim" || role === "runsc") return [];
      const has = (ok: boolean, what: string) => (ok ? [] : [`the ${role} ${pid} ${what}`]);
      const needed = role === "gofer" ? ["user", "mnt", "net"] : ["user", "mnt", "pid", "ipc", "uts", "net"];
      const shared = needed.filter((kind) => !one.own_namespaces.some((own) => own === kind));
      return [
        ...has(one.uid === NOBODY, `is uid ${one.uid}`),
        ...has(one.no_new_privs, "could gain privileges"),
        ...has(one.seccomp === "filter", "has no seccomp filter"),
        ...has(shared.length === 0, `shares the host's ${shared.join(", ")}`),
        // A gofer's are of its own user namespace, where no file but its tenant's is anybody's.
        ...has(role === "gofer" || one.capabilities.effective === NONE, "has capabilities"),
        ...has(role === "gofer" || one.namespaces.net === netns, "is not in the run's network"),
        ...flagsOf(one),
      ];
    }),
  ];
}

/** As runsc itself was told; those that make a difference to what the boundary is. */
function flagsOf({ role, pid, argv }: RoleFacts): string[] {
  if (role !== "sandbox") return [];
  const wanted = ["--platform=systrap", "--directfs=false", "--oci-seccomp=true"];
  return wanted
    .filter((flag) => !argv.includes(flag))
    .map((flag) => `the sandbox ${pid} runs without ${flag}`);
}

function treeOf(all: readonly RoleFacts[]): string[] {
  const lines: string[] = [];
  const show = (one: RoleFacts, depth: number) => {
    const { uid, capabilities, no_new_privs, seccomp, own_namespaces } = one;
    const caps = capabilities.effective === NONE ? "no capability" : `capabilities ${capabilities.effective}`;
    const owns = own_namespaces.length === 0 ? "the host's namespaces" : `own ${own_namespaces.join(" ")}`;
    const says = [`uid ${uid}`, caps, `no_new_privs ${no_new_privs ? 1 : 0}`, `seccomp ${seccomp}`, owns];
    lines.push(`${"  ".repeat(depth)}${one.role} ${one.pid}: ${says.join(", ")}`);
    for (const child of all) if (child.parent === one.pid) show(child, depth + 1);
  };
  for (const one of all) if (!all.some(({ pid }) => pid === one.parent)) show(one, 0);
  return lines;
}

export async function fileSection(run: LiveRun): Promise<Section> {
  const { names } = run;
  return see({
    name: "files",
    title: "What of the host's files it could reach",
    claim:
      "The process that opens files for the sandbox sees one directory of the host, the run's worktree, and may act as no user but the tenants'; the sandbox itself sees none.",
    by_hand: [
      `cat /proc/$(pgrep -f '[r]unsc-gofer.*${run.id}')/mounts /proc/$(pgrep -f '[r]unsc-gofer.*${run.id}')/uid_map`,
      `cat /proc/$(pgrep -f '[r]unsc-sandbox.*${run.id}')/mounts`,
      `findmnt ${names.work}`,
    ],
    look: () => {
      const all = processesOf(run);
      const of = (role: Role) => all.find((one) => one.role === role)?.pid;
      const [gofer, sandbox] = [of("gofer"), of("sandbox")];
      if (gofer === undefined || sandbox === undefined) throw new Error("its processes are not there");
      const facts = {
        gofer: { mounts: mountsOf(gofer), uid_map: mapOf(gofer) },
        sandbox: { mounts: mountsOf(sandbox), uid_map: mapOf(sandbox) },
        worktree: {
          mounted_at: names.work,
          mounts: mountsOf(process.pid).filter((line) => line.includes(` ${names.work} `)),
        },
      };
      const others = facts.gofer.mounts.filter((line) => line.split(" ")[1] !== "/work");
      const strangers = facts.gofer.uid_map.filter(([, outside]) => outside !== 65_534 && outside !== 10_000);
      const disks = facts.sandbox.mounts.filter((line) => !/^\S+ \S+ (tmpfs|proc) /.test(line));
      return {
        facts,
        lines: [
          ...facts.gofer.mounts.map((line) => `gofer mounts: ${line}`),
          ...facts.gofer.uid_map.map(
            ([inside, outside]) => `gofer users: ${inside} is the host's ${outside}`,
          ),
          ...facts.sandbox.mounts.map((line) => `sandbox mounts: ${line}`),
          ...facts.worktree.mounts.map((line) => `on the host: ${line}`),
        ],
        wrong: [
          ...others.map((line) => `the gofer has mounted: ${line}`),
          ...strangers.map(([, outside]) => `the gofer may be the host's uid ${outside}`),
          ...disks.map((line) => `the sandbox has mounted: ${line}`),
          ...(facts.worktree.mounts.length === 1 ? [] : ["the worktree is not mounted once"]),
        ],
      };
    },
  });
}

function mapOf(pid: number): [inside: number, outside: number, count: number][] {
  return procText(pid, "uid_map")
    .trim()
    .split("\n")
    .map((line) => line.trim().split(/\s+/).map(Number) as [number, number, number]);
}
