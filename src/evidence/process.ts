import { readFileSync, readlinkSync, readdirSync, statSync } from "node:fs";

const NAMESPACES = ["user", "mnt", "pid", "net", "ipc", "uts"] as const;
type Namespace = (typeof NAMESPACES)[number];
const SECCOMP = ["none", "strict", "filter"] as const;

/** What /proc says of one process, as this process sees it. */
export interface ProcessFacts {
  readonly pid: number;
  readonly parent: number;
  readonly argv: readonly string[];
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
  /** Of each kind the inode. */
  readonly namespaces: Readonly<Record<Namespace, string>>;
  /** Those that are not the host's. */
  readonly own_namespaces: readonly Namespace[];
}

/** undefined for one that is gone. */
export function processFacts(pid: number): ProcessFacts | undefined {
  return unlessGone(() => {
    const status = new Map(
      procText(pid, "status")
        .split("\n")
        .map((line) => line.split(/:\s*/, 2) as [string, string]),
    );
    const field = (name: string) => status.get(name) ?? "";
    const namespaces = namespacesOf(pid);
    const host = namespacesOf("self");
    return {
      pid,
      parent: Number(field("PPid")),
      argv: procText(pid, "cmdline").split("\0").slice(0, -1),
      uid: alike(field("Uid")),
      gid: alike(field("Gid")),
      capabilities: { effective: field("CapEff"), permitted: field("CapPrm"), bounding: field("CapBnd") },
      no_new_privs: field("NoNewPrivs") === "1",
      seccomp: SECCOMP[Number(field("Seccomp"))] ?? "none",
      namespaces,
      own_namespaces: NAMESPACES.filter((kind) => namespaces[kind] !== host[kind]),
    };
  });
}

function namespacesOf(pid: number | "self"): Record<Namespace, string> {
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

function alike(ids: string): string {
  const all = ids.split(/\s+/);
  return new Set(all).size === 1 ? (all[0] ?? "") : all.join(",");
}

/** Where a process may look: none when it is gone. */
export function mountsOf(pid: number): string[] {
  return unlessGone(() => procText(pid, "mounts").split("\n").filter(Boolean)) ?? [];
}

/** Which process holds a socket, by its inode; undefined when none does. */
export function holderOf(inode: string): number | undefined {
  const wanted = `socket:[${inode}]`;
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  const found = pids.find((pid) => {
    const descriptors = unlessGone(() => readdirSync(`/proc/${pid}/fd`)) ?? [];
    return descriptors.some((fd) => unlessGone(() => readlinkSync(`/proc/${pid}/fd/${fd}`)) === wanted);
  });
  return found === undefined ? undefined : Number(found);
}

/**
 * Whether other processes of its user may read its memory and get its core: /proc gives the files of one that they may
 * not to root.
 */
export function isDumpable(pid: number, uid: number): boolean {
  return statSync(`/proc/${pid}/environ`).uid === uid;
}

/** Throws for one that is gone. */
export function procText(pid: number, name: string): string {
  return readFileSync(`/proc/${pid}/${name}`, "utf8");
}

function unlessGone<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH") return undefined;
    throw error;
  }
}
