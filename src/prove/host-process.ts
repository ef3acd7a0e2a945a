import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { idOf, procText, readProcess, type Process } from "../kernel/process.ts";
import { runscPart } from "../sandboxd/runsc.ts";

/** One process, with what it has mounted and open. */
export interface HostProcess extends Process {
  /** Where something is mounted, and of which part of which file system. */
  readonly mounts: readonly {
    readonly root: string;
    readonly at: string;
    readonly options: string;
    readonly type: string;
  }[];
  /** What is open, with the flags of each. */
  readonly files: readonly { readonly path: string; readonly writable: boolean }[];
}

/** Throws when it is gone. */
export function readHostProcess(pid: number): HostProcess {
  const mounts = procText(pid, "mountinfo")
    .trim()
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [before = "", after = ""] = line.split(" - ");
      const [, , , root = "", at = "", options = ""] = before.split(" ");
      return { root, at, options, type: after.split(" ")[0] ?? "" };
    });
  return { ...readProcess(pid), mounts, files: filesOf(pid) };
}

function filesOf(pid: number): HostProcess["files"] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      const path = readlinkSync(`/proc/${pid}/fd/${fd}`);
      const flags = /^flags:\t0?(\d+)$/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8"))?.[1] ?? "0";
      return [{ path, writable: (Number.parseInt(flags, 8) & 3) !== 0 }];
    } catch {
      // Closed meanwhile.
      return [];
    }
  });
}

export const uidOf = (one: HostProcess): string => idOf(one, "Uid");

const HELD = ["CapInh", "CapPrm", "CapEff", "CapAmb"];

/** All that it has in any of its sets. */
export function capabilitiesOf(
  { status }: HostProcess,
  sets: readonly string[] = [...HELD, "CapBnd"],
): bigint {
  return sets.reduce((all, name) => all | BigInt(`0x${status.get(name) ?? "0"}`), 0n);
}

/** Without what it might have had: no_new_privs keeps it from that. */
export function heldBy(one: HostProcess): bigint {
  return capabilitiesOf(one, HELD);
}

/** By a filter of its own besides those of whoever started it; systemd gives sandboxd one. */
export function isFiltered({ status }: HostProcess, starter: HostProcess): boolean {
  const filters = (of: ReadonlyMap<string, string>) => Number(of.get("Seccomp_filters") ?? 0);
  const isOwn = !status.has("Seccomp_filters") || filters(status) > filters(starter.status);
  return status.get("Seccomp") === "2" && isOwn && status.get("NoNewPrivs") === "1";
}

/** One in a sandbox's group that is neither of runsc's two is a stub, in which the sandbox's own processes run. */
export function partOf({ argv }: HostProcess): "sandbox" | "gofer" | "stub" {
  return runscPart(argv) ?? "stub";
}

export function shownProcess(one: HostProcess): string {
  return `uid ${uidOf(one)}, capabilities ${capabilitiesOf(one).toString(16)}, seccomp ${one.status.get("Seccomp") ?? "?"} (${one.status.get("Seccomp_filters") ?? "?"} filters), no_new_privs ${one.status.get("NoNewPrivs") ?? "?"}`;
}
