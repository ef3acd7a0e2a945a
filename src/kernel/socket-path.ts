import { rmSync } from "node:fs";
import { AppError } from "../errors.ts";
import { KernelError } from "./libc.ts";
import { closeFd } from "./openat2.ts";
import { connectUnix } from "./unixsocket.ts";

/** A role whose serve was killed notices within two seconds, and ends: until then it still listens. */
const PATIENCE_MS = 5_000;
const PAUSE_MS = 50;

/**
 * Makes way for a listener, at a role's start: what a dead process left at `path` is removed, one that is ending is
 * waited for, and a live one's socket is not taken.
 */
export function clearSocketPath(path: string, patienceMs = PATIENCE_MS): void {
  const deadline = performance.now() + patienceMs;
  while (isAnswered(path)) {
    if (performance.now() > deadline)
      throw new AppError("unavailable", `Another process listens on ${path}; stop that one first.`);
    Bun.sleepSync(PAUSE_MS);
  }
  rmSync(path, { force: true });
}

function isAnswered(path: string): boolean {
  try {
    closeFd(connectUnix(path));
    return true;
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    // A full backlog is somebody's too.
    return error.code === "EAGAIN";
  }
}
