import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { withinNetwork } from "../kernel/network-namespace.ts";
import { argvOf, childrenOf, NAMESPACES } from "../kernel/process.ts";
import { openCgroups } from "../sandboxd/cgroup.ts";
import { HOST_END } from "../sandboxd/network/link.ts";
import { inspectWalls } from "../sandboxd/network/inspect.ts";
import { isWhole } from "../sandboxd/network/transaction.ts";
import { hostTasks, runscArguments } from "../sandboxd/run/spec.ts";
import { seccompProfile } from "../sandboxd/run/seccomp.ts";
import { readRecord } from "../sandboxd/run/record.ts";
import { runCommand } from "../sandboxd/runner.ts";
import type { Claim, Seen } from "./claim.ts";
import {
  capabilitiesOf,
  isFiltered,
  partOf,
  readHostProcess,
  shownProcess,
  uidOf,
  type HostProcess,
} from "./host-process.ts";
import { limitsOf, type Stage, type Standing } from "./stage.ts";

const NOBODY = "65534";
/** Of the gofer, within its own user namespace: chown, dac_override, dac_read_search, fowner, fsetid and sys_chroot. */
const GOFER_CAPABILITIES = 0x4001fn;
const MIB = 1024 * 1024;
/** By its name in the gofer, which opened it for the sandbox: the one mount that it sees. */
const WORK_IN_GOFER = "/root/work/";
const IO_WEIGHT = 50;

/** What the host shows of a run: the walls themselves, which hold also where no attack of ours reaches. */
export function hostClaims(stage: Stage): Claim[] {
  const { attacker, place } = stage;
  const cgroups = openCgroups();
  const processesOf = ({ names }: Standing) => cgroups.processes(names.cgroup).map(readHostProcess);
  const partIn = (which: "sandbox" | "gofer") => {
    const found = processesOf(attacker).find((one) => partOf(one) === which);
    if (found === undefined) throw new Error(`there is no ${which} process in the run's cgroup`);
    return found;
  };
  const shim = () => readHostProcess(readRecord(attacker.names)?.process.pid ?? 0);

  return [
    {
      id: "host.sandbox",
      claim:
        "Each process of a run's sandbox is nobody on the host: uid 65534, no capability, a seccomp filter of its own, no new privileges.",
      attack: "read it of every process in the run's cgroup",
      control:
        "the same look finds root with capabilities, and no filter more, in the process that started them",
      try: async () => {
        const all = processesOf(attacker);
        const own = shim();
        const wrong = all.flatMap((one) => wrongIn(one, own));
        const parts = new Set(all.map(partOf));
        const ok = wrong.length === 0 && parts.has("sandbox") && parts.has("gofer");
        return {
          attack: {
            ok,
            what: wrong.length > 0 ? wrong.join(", ") : `${all.length} processes: ${[...parts].join(", ")}`,
          },
          control: {
            ok: uidOf(own) === "0" && capabilitiesOf(own) !== 0n && !isFiltered(own, own),
            what: shownProcess(own),
          },
        };
      },
    },
    {
      id: "host.namespaces",
      claim: "A run's sandbox has namespaces of its own of each kind, and the network that was made for it.",
      attack: "compare the sandbox's and the gofer's with those of the host",
      control: "the process that started them is in the host's",
      try: async () => {
        const own = readHostProcess(process.pid).namespaces;
        const shared = [partIn("sandbox"), partIn("gofer")].flatMap((one) =>
          NAMESPACES.filter((kind) => one.namespaces[kind] === own[kind]).map(
            (kind) => `${partOf(one)}: ${kind}`,
          ),
        );
        const net = `${statSync(attacker.links.netnsPath).ino}`;
        const isIts = partIn("sandbox").namespaces.net === net;
        const both = NAMESPACES.filter((kind) => shim().namespaces[kind] !== own[kind]);
        return {
          attack: {
            ok: shared.length === 0 && isIts,
            what:
              shared.length > 0
                ? `the host's own: ${shared.join(", ")}`
                : isIts
                  ? "none is the host's"
                  : `its network is not ${net}`,
          },
          control: { ok: both.length === 0, what: both.length === 0 ? "it is" : `not in ${both.join(", ")}` },
        };
      },
    },
    {
      id: "host.mounts",
      claim: "Of the host's files a run's gofer sees its worktree alone, and its sandbox none.",
      attack: "read their tables of mounts",
      control: "the host's own table is longer",
      try: async () => {
        const gofer = partIn("gofer").mounts;
        const sandbox = partIn("sandbox").mounts;
        const isWorktree =
          gofer.length === 1 &&
          gofer[0]?.at === "/work" &&
          gofer[0].root.endsWith(`/${attacker.run.id}/work`);
        const isEmpty =
          sandbox.length === 1 && sandbox[0]?.type === "tmpfs" && sandbox[0].options.startsWith("ro");
        const own = readHostProcess(process.pid).mounts.length;
        const what = [
          ...gofer.map(({ root, at }) => `gofer: ${root} at ${at}`),
          ...sandbox.map(({ at, type, options }) => `sandbox: ${type} at ${at} (${options})`),
        ];
        return {
          attack: { ok: isWorktree && isEmpty, what: what.join(", ") },
          control: { ok: own > 2, what: `${own} mounts` },
        };
      },
    },
    {
      id: "host.files",
      claim:
        "A run's sandbox has nothing of the host open but the image, for reading, its FIFOs, its log, and its own files.",
      attack: "list what it has open",
      control: "the same list shows its FIFO as writable",
      try: async () => {
        const files = partIn("sandbox").files.filter(
          ({ path }) => path.startsWith("/") && !path.startsWith("/memfd:"),
        );
        const pipes = ["in", "out", "err"].map(
          (name) => `${place.appliance.instance.sockets.runs}/${attacker.run.id}/${name}`,
        );
        const own = new Set([...pipes, attacker.names.log, "/dev/null"]);
        const images = files.filter(({ path, writable }) => path.endsWith("/run.erofs") && !writable);
        const wrong = files.filter(
          ({ path }) =>
            !own.has(path) && !path.startsWith(WORK_IN_GOFER) && !images.some((image) => image.path === path),
        );
        const changeable = images.filter(
          ({ path }) => existsSync(path) && (statSync(path).uid !== 0 || (statSync(path).mode & 0o022) !== 0),
        );
        const out = files.some(({ path, writable }) => path === pipes[1] && writable);
        return {
          attack: {
            ok: wrong.length === 0 && images.length > 0 && changeable.length === 0,
            what:
              [...wrong, ...changeable]
                .map(({ path, writable }) => `${path}${writable ? " (writable)" : ""}`)
                .join(", ") || `${images[0]?.path ?? "no image"}, for reading`,
          },
          control: { ok: out, what: out ? "it does" : "it does not" },
        };
      },
    },
    {
      id: "host.limits",
      claim: "A run's limits of memory, swap, processes and CPU are in force on every process of it.",
      attack: "read them from its cgroup, and whose processes are in it",
      control: "its neighbour's, who asked for other ones, read otherwise",
      try: async () => {
        const asked = limitsOf(place.config, "attacker");
        const most = {
          memoryBytes: asked.memory_mb * MIB,
          pids: hostTasks(asked.pids),
          cpus: asked.cpus,
          ioWeight: IO_WEIGHT,
        };
        const wrong = cgroups.missing(attacker.names.cgroup, most);
        for (const pid of cgroups.processes(attacker.names.cgroup))
          cgroups.verifyMember(attacker.names.cgroup, pid);
        const other = cgroups.missing(stage.neighbour.names.cgroup, most);
        return {
          attack: {
            ok: wrong.length === 0,
            what: wrong.join(", ") || `${asked.memory_mb} MiB, ${asked.pids} processes, ${asked.cpus} CPUs`,
          },
          control: { ok: other.length > 0, what: other.join(", ") || "they read alike" },
        };
      },
    },
    {
      id: "host.spec",
      claim: "A run was started by the spec, the profile and the flags that its receipt tells of.",
      attack: "compare their hashes, and the flags with which its processes run",
      control: "another spec has another hash",
      try: async () => {
        const { names } = attacker;
        const text = readFileSync(names.spec, "utf8");
        const told = readRecord(names)?.made_of;
        const inSpec = (JSON.parse(text) as { linux: { seccomp: unknown } }).linux.seccomp;
        const flags = runscArguments(names);
        const flagsBefore = flags.slice(0, flags.indexOf("run"));
        const runsc = processArguments(attacker);
        const missing = flags.filter((flag) => !runsc.includes(flag));
        const also = runsc.filter((word) => word.startsWith("--") && !flags.includes(word));
        const sandbox = partIn("sandbox").argv;
        const given = flagsBefore.filter(
          (flag) => !sandbox.includes(flag) && !sandbox.includes(`${flag}=true`),
        );
        const wrong = [
          ...(sha256(text) === told?.spec_sha256 ? [] : ["the spec is another"]),
          ...(sha256(JSON.stringify(inSpec)) === told?.seccomp_sha256 &&
          told.seccomp_sha256 === sha256(JSON.stringify(seccompProfile))
            ? []
            : ["the profile is another"]),
          ...missing.map((flag) => `without ${flag}`),
          ...also.map((flag) => `with ${flag}`),
          ...given.map((flag) => `the sandbox without ${flag}`),
        ];
        return {
          attack: {
            ok: wrong.length === 0,
            what: wrong.join(", ") || `spec ${told?.spec_sha256.slice(0, 12) ?? ""}`,
          },
          control: { ok: sha256(`${text} `) !== told?.spec_sha256, what: "it has" },
        };
      },
    },
    {
      id: "host.rules",
      claim:
        "The packet filter's rules are as they were written, each of them, and nothing else leads into them.",
      attack: "compare what the host shows with what it should",
      control: "with any one rule less the same look finds that",
      try: async () => {
        const tables = await inspectWalls({
          instance: place.appliance.instance,
          config: place.config,
          run: runCommand,
        });
        const torn = tables.filter(({ whole }) => !whole).map(({ table }) => table);
        const rules = tables.flatMap(({ shown, wanted }) =>
          [...shown.chains].flatMap(([name, rules]) =>
            rules.map((_, gone) =>
              isWhole(wanted, {
                ...shown,
                chains: new Map(shown.chains).set(name, rules.toSpliced(gone, 1)),
              }),
            ),
          ),
        );
        const missed = rules.filter((whole) => whole).length;
        return {
          attack: {
            ok: torn.length === 0,
            what: torn.length === 0 ? `${rules.length} rules` : `not as written: ${torn.join(", ")}`,
          },
          control: {
            ok: rules.length > 0 && missed === 0,
            what: `${rules.length - missed} of ${rules.length} found`,
          },
        };
      },
    },
    settings(stage),
  ];
}

function wrongIn(one: HostProcess, host: HostProcess): string[] {
  const part = partOf(one);
  const allowed = part === "gofer" ? GOFER_CAPABILITIES : 0n;
  const isOutside = one.namespaces.user !== host.namespaces.user;
  const ok =
    uidOf(one) === NOBODY && (capabilitiesOf(one) & ~allowed) === 0n && isFiltered(one, host) && isOutside;
  return ok
    ? []
    : [`${part} ${one.pid}: ${shownProcess(one)}${isOutside ? "" : ", in the host's user namespace"}`];
}

/** Of the `runsc run` that the shim waits for. */
function processArguments({ names }: Standing): readonly string[] {
  const shim = readRecord(names)?.process.pid ?? 0;
  return argvOf(childrenOf(shim)[0] ?? 0);
}

function settings({ attacker, neighbour, outside }: Stage): Claim {
  const IPV6 = { disable_ipv6: 1 };
  const wrongAt = (link: string) => [...wrong("ipv4", link, HOST_END), ...wrong("ipv6", link, IPV6)];
  return {
    id: "host.settings",
    claim:
      "The host's end of a run's network believes only what belongs to it, and has no IPv6; nor has the run's.",
    attack: "read the kernel's settings for both ends",
    control: "those of the proof's own pair read otherwise",
    try: async () => {
      const found = [attacker, neighbour].flatMap(({ links }) => wrongAt(links.veth));
      for (const { links } of [attacker, neighbour])
        withinNetwork(links.netnsPath, () =>
          found.push(...wrong("ipv6", "all", IPV6), ...wrong("ipv6", "eth0", IPV6)),
        );
      const other = wrongAt(outside.besideLink);
      const seen = (all: readonly string[]): string => all.join(", ");
      const attack: Seen = { ok: found.length === 0, what: seen(found) || "as they were set" };
      return { attack, control: { ok: other.length > 0, what: seen(other) || "they read alike" } };
    },
  };
}

function wrong(family: "ipv4" | "ipv6", link: string, wanted: Readonly<Record<string, number>>): string[] {
  if (!existsSync(`/proc/sys/net/${family}`)) return [];
  return Object.entries(wanted).flatMap(([name, value]) => {
    const now = readFileSync(`/proc/sys/net/${family}/conf/${link}/${name}`, "utf8").trim();
    return now === `${value}` ? [] : [`${link} ${name} is ${now}`];
  });
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
