import { closeSync, fstatSync, openSync } from "node:fs";
import { KernelError, NR, syscall } from "./libc.ts";
import { closeFd, constants } from "./openat2.ts";

/** LANDLOCK_ACCESS_FS_*, linux/landlock.h. */
const Right = {
  execute: 1 << 0,
  writeFile: 1 << 1,
  readFile: 1 << 2,
  readDir: 1 << 3,
  removeDir: 1 << 4,
  removeFile: 1 << 5,
  makeChar: 1 << 6,
  makeDir: 1 << 7,
  makeReg: 1 << 8,
  makeSock: 1 << 9,
  makeFifo: 1 << 10,
  makeBlock: 1 << 11,
  makeSym: 1 << 12,
  /** ABI 2: rename and link from one directory to another. Without it they are all refused. */
  refer: 1 << 13,
  /** ABI 3. */
  truncate: 1 << 14,
  /** ABI 5. */
  ioctlDev: 1 << 15,
} as const;

/** What one path allows, for it and all below. */
type LandlockAccess = "read" | "execute" | "device" | "own";

const RIGHTS: Record<LandlockAccess, number> = {
  read: Right.readFile | Right.readDir,
  execute: Right.readFile | Right.execute,
  device: Right.readFile | Right.writeFile,
  // No device nodes, nothing to execute.
  own:
    Right.readFile |
    Right.readDir |
    Right.writeFile |
    Right.truncate |
    Right.removeDir |
    Right.removeFile |
    Right.makeDir |
    Right.makeReg |
    Right.makeSock |
    Right.makeFifo |
    Right.makeSym |
    Right.refer,
};
/** The rights that a rule on a file, not a directory, may hold. */
const FILE_RIGHTS = Right.execute | Right.writeFile | Right.readFile | Right.truncate | Right.ioctlDev;

const CREATE_RULESET_VERSION = 1;
const RULE_PATH_BENEATH = 1;
/** ABI 6: no signals to, and no abstract sockets of, processes outside. */
const SCOPE_ABSTRACT_UNIX_SOCKET = 1;
const SCOPE_SIGNAL = 2;
/** The first with `refer`; kernel 5.19. */
const OLDEST_ABI = 2;

export interface LandlockRule {
  readonly path: string;
  readonly access: LandlockAccess;
}

/** The kernel's Landlock version; null where there is none, or it is switched off at boot. */
export function landlockAbi(): number | null {
  try {
    return syscall("landlock_create_ruleset", NR.landlock_create_ruleset, 0, 0, CREATE_RULESET_VERSION);
  } catch (error) {
    if (error instanceof KernelError && (error.code === "ENOSYS" || error.code === "ENOTSUP")) return null;
    throw error;
  }
}

/**
 * Confines the calling thread, and what it becomes by execve, to the rules. Threads that exist already are not
 * confined, so an execve has to follow. It needs no_new_privs. Landlock does not stop chmod, chown, stat or connect to
 * a unix socket: what must not be reached by those has to be absent from the mount namespace.
 */
export function restrictThread(rules: readonly LandlockRule[]): void {
  const abi = landlockAbi();
  if (abi === null || abi < OLDEST_ABI) {
    throw new Error(
      "this kernel has no Landlock (5.19 or newer, with landlock in its lsm= list): it must be switched on",
    );
  }
  const handled = handledRights(abi);
  const attributes = new BigUint64Array(new ArrayBuffer(24));
  attributes[0] = BigInt(handled);
  if (abi >= 6) attributes[2] = BigInt(SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL);
  // An older kernel knows a shorter struct: handled_access_fs alone until 4, scoped from 6.
  const bytes = abi >= 6 ? 24 : 8;
  const ruleset = syscall("landlock_create_ruleset", NR.landlock_create_ruleset, attributes, bytes);
  try {
    for (const rule of rules) addRule(ruleset, rule, handled);
    syscall("landlock_restrict_self", NR.landlock_restrict_self, ruleset);
  } finally {
    closeFd(ruleset);
  }
}

function handledRights(abi: number): number {
  const all = Object.values(Right).reduce((rights, right) => rights | right, 0);
  const unknown = (abi < 3 ? Right.truncate : 0) | (abi < 5 ? Right.ioctlDev : 0);
  return all & ~unknown;
}

function addRule(ruleset: number, { path, access }: LandlockRule, handled: number): void {
  const fd = openSync(path, constants.O_PATH | constants.O_CLOEXEC);
  try {
    const rights = fstatSync(fd).isDirectory() ? RIGHTS[access] : RIGHTS[access] & FILE_RIGHTS;
    const rule = new DataView(new ArrayBuffer(12));
    rule.setBigUint64(0, BigInt(rights & handled), true);
    rule.setInt32(8, fd, true);
    syscall("landlock_add_rule", NR.landlock_add_rule, ruleset, RULE_PATH_BENEATH, rule, 0, 0, 0, path);
  } finally {
    closeSync(fd);
  }
}
