import { KernelError, NR, syscall } from "./libc.ts";

const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;

/** flock(2), held until the descriptor and its copies are closed; false when another's is in the way. */
export function tryLock(fd: number, kind: "shared" | "exclusive"): boolean {
  try {
    syscall("flock", NR.flock, fd, (kind === "shared" ? LOCK_SH : LOCK_EX) | LOCK_NB);
    return true;
  } catch (error) {
    if (error instanceof KernelError && error.code === "EAGAIN") return false;
    throw error;
  }
}
