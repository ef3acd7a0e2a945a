import { readdirSync, readlinkSync, statSync } from "node:fs";
import {
  idOf,
  NAMESPACES,
  namespacesOf,
  pids,
  procText,
  readProcess,
  unlessGone,
  type Namespace,
  type Process,
} from "../kernel/process.ts";

const SECCOMP = ["none", "strict", "filter"] as const;

/** Of a process, what makes a difference to who may do what. */
export interface ProcessFacts extends Pick<Process, "pid" | "argv" | "namespaces"> {
  readonly parent: number;
  /** Real, effective, saved, and of the file system: alike, or all four. */
  readonly uid: string;
  readonly gid: string;
  /** Hexadecimal sets. */
  readonly capabilities: {
    readonly effective: string;
    readonly permitted: string;
    readonly bounding: string;
  };
  readonly no_new_privs: boolean;
  readonly seccomp: (typeof SECCOMP)[number];
  /** Those that are not the host's. */
  readonly own_namespaces: readonly Namespace[];
}

/** undefined for one that is gone. */
export function processFacts(pid: number): ProcessFacts | undefined {
  return unlessGone(() => {
    const found = readProcess(pid);
    const { argv, status, namespaces } = found;
    const host = namespacesOf(process.pid);
    const field = (name: string) => status.get(name) ?? "";
    return {
      pid,
      parent: Number(field("PPid")),
      argv,
      uid: idOf(found, "Uid"),
      gid: idOf(found, "Gid"),
      capabilities: { effective: field("CapEff"), permitted: field("CapPrm"), bounding: field("CapBnd") },
      no_new_privs: field("NoNewPrivs") === "1",
      seccomp: SECCOMP[Number(field("Seccomp"))] ?? "none",
      namespaces,
      own_namespaces: NAMESPACES.filter((kind) => namespaces[kind] !== host[kind]),
    };
  });
}

/** Where a process may look: none when it is gone. */
export function mountsOf(pid: number): string[] {
  return unlessGone(() => procText(pid, "mounts").split("\n").filter(Boolean)) ?? [];
}

/** Which process holds a socket, by its inode; undefined when none does. */
export function holderOf(inode: string): number | undefined {
  const wanted = `socket:[${inode}]`;
  return pids().find((pid) => {
    const descriptors = unlessGone(() => readdirSync(`/proc/${pid}/fd`)) ?? [];
    return descriptors.some((fd) => unlessGone(() => readlinkSync(`/proc/${pid}/fd/${fd}`)) === wanted);
  });
}

/**
 * Whether other processes of its user may read its memory and get its core: /proc gives the files of one that they may
 * not to root.
 */
export function isDumpable(pid: number, uid: number): boolean {
  return statSync(`/proc/${pid}/environ`).uid === uid;
}
