import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { cString, KernelError, NR, syscall } from "./libc.ts";
import {
  makePrivate,
  MountAttr,
  mountSetattr,
  moveMount,
  newFilesystem,
  openTree,
  umount,
} from "./mounts.ts";
import { closeFd } from "./openat2.ts";

/** What a process shall see of the host's files; all else is absent. Paths keep their names. */
export interface RootView {
  /** Directories of its own: readable and writable. */
  readonly own: readonly string[];
  /** Read-only; code may be mapped from it. */
  readonly code: readonly string[];
  /** Read-only. What does not exist is left out. */
  readonly read: readonly string[];
  readonly devices: readonly string[];
}

const CLONE_NEWNS = 0x20000;
const READ_ONLY = MountAttr.readOnly | MountAttr.noSuid | MountAttr.noDev | MountAttr.noExec;

/**
 * Gives the calling thread a mount namespace of its own, whose root holds the view and nothing else: a read-only tmpfs
 * with read-only binds, the own directories, and a /proc of processes only. As root; an execve has to follow, since
 * the process' other threads stay where they were. `scratch` is a directory of root's to build it at.
 */
export function enterRootView(view: RootView, scratch: string): void {
  const placements = collect(view);
  syscall("unshare mounts", NR.unshare, CLONE_NEWNS);
  // Nothing mounted here shows on the host, nothing mounted there later shows here.
  makePrivate("/", { recursive: true });
  // A unit's tighter one would leave directories here that the role can't pass through. It also is what a role has
  // later, the same under serve and systemd; its own directories are closed to others anyway.
  process.umask(0o022);
  const binds = placements.binds.map((bind) => ({ ...bind, tree: detachedBind(bind) }));
  const root = newFilesystem(
    "tmpfs",
    { mode: "0755", size: "1m", nr_inodes: "2k" },
    MountAttr.noSuid | MountAttr.noDev | MountAttr.noExec,
  );
  moveMount(root, { path: scratch });
  for (const { path, target } of placements.links) {
    mkdirSync(dirname(scratch + path), { recursive: true, mode: 0o755 });
    symlinkSync(target, scratch + path);
  }
  for (const { path, tree } of binds) {
    makeTarget(scratch + path, statSync(path).isDirectory());
    moveMount(tree, { path: scratch + path });
    closeFd(tree);
  }
  mkdirSync(`${scratch}/proc`);
  // Other users' processes don't show, nor the host's settings and counters.
  const proc = newFilesystem("proc", { hidepid: "invisible", subset: "pid" }, READ_ONLY);
  moveMount(proc, { path: `${scratch}/proc` });
  closeFd(proc);
  mountSetattr(root, READ_ONLY);
  closeFd(root);
  pivot(scratch);
}

type Kind = keyof RootView;

interface Bind {
  readonly path: string;
  readonly kind: Kind;
}

interface Link {
  readonly path: string;
  readonly target: string;
}

/** The paths with their symlinks resolved, and those links, which are made again in the new root. */
function collect(view: RootView): { binds: Bind[]; links: Link[] } {
  const links = new Map<string, Link>();
  const binds = new Map<string, Bind>();
  for (const kind of ["code", "read", "devices", "own"] as const) {
    for (const path of view[kind]) {
      if (kind === "read" && !existsSync(path)) continue;
      const real = follow(path, links);
      binds.set(real, { path: real, kind });
    }
  }
  // Shorter first: a directory is mounted before what lies in it.
  return {
    binds: [...binds.values()].toSorted((a, b) => a.path.length - b.path.length),
    links: [...links.values()],
  };
}

const MAX_LINKS = 40;

function follow(path: string, links: Map<string, Link>): string {
  let rest = path.split("/").filter((name) => name !== "");
  let at = "/";
  for (let seen = 0; rest.length > 0;) {
    const [name = "", ...below] = rest;
    const next = join(at, name);
    if (lstatSync(next).isSymbolicLink()) {
      if (++seen > MAX_LINKS) throw new Error(`${path}: too many symlinks`);
      const target = readlinkSync(next);
      links.set(next, { path: next, target });
      rest = [
        ...resolve(at, target)
          .split("/")
          .filter((part) => part !== ""),
        ...below,
      ];
      at = "/";
    } else {
      at = next;
      rest = below;
    }
  }
  return at;
}

function detachedBind({ path, kind }: Bind): number {
  const tree = openTree({ path }, { recursive: kind === "own" });
  const attributes = {
    own: MountAttr.noSuid | MountAttr.noDev | MountAttr.noExec,
    code: MountAttr.readOnly | MountAttr.noSuid | MountAttr.noDev,
    read: READ_ONLY,
    devices: MountAttr.readOnly | MountAttr.noSuid | MountAttr.noExec,
  }[kind];
  mountSetattr(tree, attributes, { recursive: true });
  return tree;
}

function makeTarget(path: string, directory: boolean): void {
  if (existsSync(path)) return;
  mkdirSync(directory ? path : dirname(path), { recursive: true, mode: 0o755 });
  if (!directory) writeFileSync(path, "", { mode: 0o444 });
}

/** pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one, and goes. */
function pivot(root: string): void {
  const here = cString(".");
  syscall("chdir", NR.chdir, cString(root), 0, 0, 0, 0, 0, root);
  try {
    syscall("pivot_root", NR.pivot_root, here, here);
  } catch (error) {
    // On an initial ramfs there is nothing to pivot away from.
    if (error instanceof KernelError && error.code === "EINVAL") {
      throw new Error(
        "the root file system of this host cannot be left by pivot_root; start from a real root or a container",
        { cause: error },
      );
    }
    throw error;
  }
  umount(".", { detach: true });
  syscall("chdir", NR.chdir, cString("/"));
}

/** The directories of the libraries that this process has loaded. */
export function loadedLibraryDirectories(maps = readFileSync("/proc/self/maps", "utf8")): string[] {
  const files = maps.matchAll(/ (\/.*\.so(?:\.[\w.]+)?)$/gm).map((match) => match[1] ?? "");
  return [...new Set(files.map((path) => dirname(path)))];
}
