import { closeSync, constants, openSync } from "node:fs";
import { AppError } from "../errors.ts";
import type { Instance } from "./instance.ts";
import { tryLock } from "../kernel/flock.ts";

const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW } = constants;
const PATIENCE_MS = 30_000;
const PAUSE_MS = 20;

/**
 * api tells by a lock on its directory that it lives and its files are in use; kept until the process ends. What may only
 * be done without it, taking the keys of its files away, holds the other kind of that lock, and api waits for its end.
 */
export async function showPresence(instance: Instance): Promise<Disposable> {
  const fd = openDirectory(instance);
  for (const deadline = Date.now() + PATIENCE_MS; !tryLock(fd, "shared"); await Bun.sleep(PAUSE_MS)) {
    if (Date.now() < deadline) continue;
    closeSync(fd);
    throw new AppError("unavailable", "The files of this instance are being locked; try again in a moment.");
  }
  return { [Symbol.dispose]: () => closeSync(fd) };
}

/** Does `work` while there is no api, and keeps one from starting; false when there is one. */
export async function withoutApi(instance: Instance, work: () => void | Promise<void>): Promise<boolean> {
  const fd = openDirectory(instance);
  try {
    if (!tryLock(fd, "exclusive")) return false;
    await work();
    return true;
  } finally {
    closeSync(fd);
  }
}

/** Only the last component is api's to change, and that it can't: its parent is root's. */
function openDirectory(instance: Instance): number {
  return openSync(instance.api.dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}
