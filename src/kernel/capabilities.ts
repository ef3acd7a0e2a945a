import { KernelError, NR, syscall } from "./libc.ts";
import type { User } from "./users.ts";

/** Numbers of linux/capability.h. */
export const Capability = { chown: 0, dacOverride: 1, fowner: 3, netBindService: 10 } as const;
export type Capability = (typeof Capability)[keyof typeof Capability];

const PR_SET_KEEPCAPS = 8;
const PR_CAPBSET_DROP = 24;
const PR_SET_NO_NEW_PRIVS = 38;
const PR_CAP_AMBIENT = 47;
const PR_CAP_AMBIENT_RAISE = 2;
const PR_CAP_AMBIENT_CLEAR_ALL = 4;
const VERSION_3 = 0x20080522;

/**
 * Makes the calling thread, and what it becomes by execve, `user` with exactly these capabilities, for good: no
 * groups, the bounding set cut to them, no_new_privs. An execve has to follow, which ends the other threads.
 */
export function becomeUser(user: User, keep: readonly Capability[]): void {
  cutBoundingSet(keep);
  syscall("setgroups", NR.setgroups, 0, 0);
  syscall("prctl keepcaps", NR.prctl, PR_SET_KEEPCAPS, 1);
  syscall("setresgid", NR.setresgid, user.gid, user.gid, user.gid);
  syscall("setresuid", NR.setresuid, user.uid, user.uid, user.uid);
  setCapabilities(keep);
  syscall("prctl ambient", NR.prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL);
  for (const capability of keep) {
    syscall("prctl ambient", NR.prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability);
  }
  syscall("prctl no_new_privs", NR.prctl, PR_SET_NO_NEW_PRIVS, 1);
}

export function capabilityMask(capabilities: readonly Capability[]): bigint {
  return capabilities.reduce((mask, capability) => mask | (1n << BigInt(capability)), 0n);
}

function cutBoundingSet(keep: readonly Capability[]): void {
  for (let capability = 0; ; capability++) {
    if ((keep as readonly number[]).includes(capability)) continue;
    try {
      syscall("prctl bounding set", NR.prctl, PR_CAPBSET_DROP, capability);
    } catch (error) {
      // Past the last one that this kernel knows.
      if (error instanceof KernelError && error.code === "EINVAL") return;
      throw error;
    }
  }
}

/** Permitted, effective and inheritable. */
function setCapabilities(keep: readonly Capability[]): void {
  const header = new Uint32Array([VERSION_3, 0]);
  const low = Number(capabilityMask(keep));
  const data = new Uint32Array([low, low, low, 0, 0, 0]);
  syscall("capset", NR.capset, header, data);
}
