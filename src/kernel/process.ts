import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { codeOf } from "../errors.ts";

/** A process as /proc shows it to this one. */
export interface Process {
  readonly pid: number;
  readonly argv: readonly string[];
  /** The lines of its `status`, by their names. */
  readonly status: ReadonlyMap<string, string>;
  /** Of each kind the inode. */
  readonly namespaces: Readonly<Record<Namespace, string>>;
}

/** Of each kind that a sandbox has one of its own of. */
export const NAMESPACES = ["user", "mnt", "pid", "net", "ipc", "uts"] as const;
export type Namespace = (typeof NAMESPACES)[number];

/** Of its `stat`. */
interface Stat {
  readonly state: string;
  readonly session: number;
  /** In clock ticks since boot. */
  readonly startTime: number;
}

/** All processes that there are. */
export function pids(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** What a look at a process finds; undefined when that is gone. The readers below throw then. */
export function unlessGone<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes(codeOf(error) ?? "")) return undefined;
    throw error;
  }
}

export function readProcess(pid: number): Process {
  return { pid, argv: argvOf(pid), status: statusOf(pid), namespaces: namespacesOf(pid) };
}

export function procText(pid: number, name: string): string {
  return readFileSync(`/proc/${pid}/${name}`, "utf8");
}

/** None of one that has ended, and whose parent does not know yet. */
export function argvOf(pid: number): string[] {
  const text = procText(pid, "cmdline");
  return text === "" ? [] : text.replace(/\0$/, "").split("\0");
}

export function statusOf(pid: number): Map<string, string> {
  const lines = procText(pid, "status").trimEnd().split("\n");
  return new Map(
    lines.map((line) => {
      const at = line.indexOf(":");
      return [line.slice(0, at), line.slice(at + 1).trim()];
    }),
  );
}

export function statOf(pid: number): Stat {
  const text = procText(pid, "stat");
  // The second field is the program's name in parentheses and may hold anything, so count from its end.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0] ?? "", session: Number(fields[3]), startTime: Number(fields[19]) };
}

/** It runs nothing and holds nothing any more, also while its parent does not know yet. */
export function hasEnded({ state }: Stat): boolean {
  return state === "Z" || state === "X";
}

export function childrenOf(pid: number): number[] {
  return procText(pid, `task/${pid}/children`).split(" ").filter(Boolean).map(Number);
}

/** "Uid" or "Gid": real, effective, saved, and of the file system. One where they are alike, else all four. */
export function idOf({ status }: Pick<Process, "status">, name: "Uid" | "Gid"): string {
  const all = (status.get(name) ?? "").split(/\s+/);
  return new Set(all).size === 1 ? (all[0] ?? "") : all.join(",");
}

export function namespacesOf(pid: number): Process["namespaces"] {
  const link = (kind: Namespace) => /\d+/.exec(readlinkSync(`/proc/${pid}/ns/${kind}`))?.[0] ?? "";
  return {
    user: link("user"),
    mnt: link("mnt"),
    pid: link("pid"),
    net: link("net"),
    ipc: link("ipc"),
    uts: link("uts"),
  };
}
