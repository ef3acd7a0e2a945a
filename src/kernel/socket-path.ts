import { rmSync } from "node:fs";
import { AppError } from "../errors.ts";
import { KernelError } from "./libc.ts";
import { closeFd } from "./openat2.ts";
import { connectUnix } from "./unixsocket.ts";

/** Makes way for a listener: what a dead process left at `path` is removed, a live one's socket is not taken. */
export function clearSocketPath(path: string): void {
  try {
    closeFd(connectUnix(path));
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    // A full backlog is somebody's too.
    if (error.code !== "EAGAIN") {
      rmSync(path, { force: true });
      return;
    }
  }
  throw new AppError("unavailable", `Another process listens on ${path}; stop that one first.`);
}
