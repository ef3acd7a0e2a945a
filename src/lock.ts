import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { AppError } from "./errors.ts";
import type { Instance } from "./instance.ts";
import { KernelError, NR, syscall } from "./kernel/libc.ts";

const LOCK_EX_NB = 2 | 4;

/** Held until `release`, or the end of the process however it ends. */
export interface InstanceLock {
  release(): void;
}

/**
 * For who starts the sandboxes of an instance: two of them would take each other's for remains. It lies under /run by
 * the instance's tag, so that it also tells two copies of one data directory apart.
 */
export function lockInstance(instance: Instance): InstanceLock {
  const file = instance.lockFile;
  const fd = openSync(file, "a+", 0o600);
  try {
    syscall("flock", NR.flock, fd, LOCK_EX_NB, 0, 0, 0, 0, file);
  } catch (error) {
    const holder = readFileSync(fd, "utf8").trim();
    closeSync(fd);
    if (!(error instanceof KernelError) || error.code !== "EAGAIN") throw error;
    throw new AppError(
      "conflict",
      `The instance ${instance.inst} runs already (${holder}); stop that first, or give another --data.`,
      { cause: error },
    );
  }
  ftruncateSync(fd);
  writeSync(fd, `pid ${process.pid}, data ${instance.data}`);
  return { release: () => closeSync(fd) };
}
