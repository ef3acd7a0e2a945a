import { cString, NR, syscall } from "./libc.ts";
import { closeFd } from "./openat2.ts";

/** Flags for mountSetattr; see mount_setattr(2). */
export const MountAttr = { readOnly: 0x1, noSuid: 0x2, noDev: 0x4, noExec: 0x8 } as const;

const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const AT_RECURSIVE = 0x8000;
const AT_SYMLINK_NOFOLLOW = 0x100;
const OPEN_TREE_CLONE = 1;
const O_CLOEXEC = 0o2000000;
const MOVE_MOUNT_F_EMPTY_PATH = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH = 0x40;
const UMOUNT_NOFOLLOW = 8;
const MNT_DETACH = 2;
const MS_BIND = 4096;
const MS_SHARED = 1 << 20;
const MS_PRIVATE = 1 << 18;
const MS_REC = 16384;
const FSCONFIG_SET_FLAG = 0;
const FSCONFIG_SET_STRING = 1;
const FSCONFIG_CMD_CREATE = 6;
const FSMOUNT_CLOEXEC = 1;

/**
 * A detached copy of the mount at a descriptor (`{fd}`: nothing is looked up, so nobody can swap a link in) or at a
 * path (its last component is never followed). The caller closes it; unattached, it vanishes then.
 */
export function openTree(
  source: { fd: number } | { path: string },
  options: { recursive?: boolean } = {},
): number {
  const recursive = options.recursive === true ? AT_RECURSIVE : 0;
  if ("fd" in source) {
    const flags = OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH | recursive;
    return syscall("open_tree", NR.open_tree, source.fd, empty, flags);
  }
  const flags = OPEN_TREE_CLONE | O_CLOEXEC | AT_SYMLINK_NOFOLLOW | recursive;
  return syscall("open_tree", NR.open_tree, AT_FDCWD, cString(source.path), flags, 0, 0, 0, source.path);
}

/** Attaches a detached mount. A target path's last component is not followed. */
export function moveMount(treeFd: number, target: { fd: number } | { path: string }): void {
  if ("fd" in target) {
    const flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    syscall("move_mount", NR.move_mount, treeFd, empty, target.fd, empty, flags);
    return;
  }
  const path = cString(target.path);
  syscall(
    "move_mount",
    NR.move_mount,
    treeFd,
    empty,
    AT_FDCWD,
    path,
    MOVE_MOUNT_F_EMPTY_PATH,
    0,
    target.path,
  );
}

/** Sets MountAttr flags on the mount at a descriptor (detached or attached). */
export function mountSetattr(fd: number, set: number, options: { recursive?: boolean } = {}): void {
  attr[0] = BigInt(set);
  attr[1] = 0n;
  attr[2] = 0n;
  attr[3] = 0n;
  const flags = AT_EMPTY_PATH | (options.recursive === true ? AT_RECURSIVE : 0);
  syscall("mount_setattr", NR.mount_setattr, fd, empty, flags, attr, ATTR_BYTES);
}

/** A detached mount of a new instance of a file system; flags without a value are given as true. */
export function newFilesystem(
  type: string,
  options: Record<string, string | true>,
  attributes: number,
): number {
  const context = syscall("fsopen", NR.fsopen, cString(type), 1, 0, 0, 0, 0, type);
  try {
    for (const [name, value] of Object.entries(options)) {
      if (value === true) fsconfig(context, FSCONFIG_SET_FLAG, name, 0);
      else fsconfig(context, FSCONFIG_SET_STRING, name, cString(value));
    }
    syscall("fsconfig create", NR.fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0, 0, type);
    return syscall("fsmount", NR.fsmount, context, FSMOUNT_CLOEXEC, attributes, 0, 0, 0, type);
  } finally {
    closeFd(context);
  }
}

function fsconfig(context: number, command: number, name: string, value: number | Uint8Array): void {
  syscall("fsconfig", NR.fsconfig, context, command, cString(name), value, 0, 0, name);
}

/** Binds `source` on itself or elsewhere, by path: for directories whose whole path is root's. */
export function bindMount(source: string, target: string): void {
  syscall("mount bind", NR.mount, cString(source), cString(target), 0, MS_BIND, 0, 0, target);
}

/** From now on mounts made below appear in every copy of this mount, in sandboxes too. */
export function makeShared(path: string): void {
  syscall("mount shared", NR.mount, 0, cString(path), 0, MS_SHARED, 0, 0, path);
}

export function makePrivate(path: string, options: { recursive?: boolean } = {}): void {
  const flags = MS_PRIVATE | (options.recursive === true ? MS_REC : 0);
  syscall("mount private", NR.mount, 0, cString(path), 0, flags, 0, 0, path);
}

/** Throws EINVAL where nothing is mounted. `detach`: at once out of sight, gone when its last user is. */
export function umount(path: string, options: { detach?: boolean } = {}): void {
  const flags = UMOUNT_NOFOLLOW | (options.detach === true ? MNT_DETACH : 0);
  syscall("umount", NR.umount2, cString(path), flags, 0, 0, 0, 0, path);
}

const empty = cString("");
const ATTR_BYTES = 32;
const attr = new BigUint64Array(new ArrayBuffer(ATTR_BYTES));
