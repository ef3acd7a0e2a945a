import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { AppError } from "../errors.ts";
import type { Instance } from "./instance.ts";
import { tryLock } from "../kernel/flock.ts";

/** A child that a killed holder had forked keeps the lock until it executes something: moments, but a second at most. */
const DEAD_HOLDER_TRIES = 50;
const DEAD_HOLDER_PAUSE_MS = 20;

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
    for (let tries = 0; !tryLock(fd, "exclusive"); tries++) {
      const holder = readFileSync(file, "utf8").trim();
      if (tries === DEAD_HOLDER_TRIES || isRunning(holder)) {
        throw new AppError(
          "conflict",
          `The instance ${instance.inst} runs already (${holder}); stop that first, or give another --data.`,
        );
      }
      Bun.sleepSync(DEAD_HOLDER_PAUSE_MS);
    }
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  ftruncateSync(fd);
  writeSync(fd, `pid ${process.pid}, data ${instance.data}`);
  return { release: () => closeSync(fd) };
}

function isRunning(holder: string): boolean {
  try {
    process.kill(Number(/^pid (\d+)/.exec(holder)?.[1]), 0);
    return true;
  } catch {
    return false;
  }
}
