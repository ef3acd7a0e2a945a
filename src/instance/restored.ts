import { closeSync, copyFileSync, existsSync, openSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { AppError } from "../errors.ts";
import type { BackupId } from "../ids.ts";
import { tryLock } from "../kernel/flock.ts";
import { syncDirectory } from "../kernel/durable.ts";

/*
 * A restore puts everything together in DATA/restore, on the disk, before it makes the file "ready" there. Up to that
 * the appliance is as it was; from then on whoever comes first moves the rest into place, the restore or the next start:
 * each step is a rename that is found done when it was.
 */
const DIRECTORY = "restore";
const READY = "ready";

export interface Staging {
  readonly dir: string;
  /** Becomes the instance's own of these names. */
  readonly api: string;
  readonly keyring: string;
  readonly gatewayKey: string;
  readonly config: string;
  readonly ready: string;
}

export function stagingOf(data: string): Staging {
  const dir = join(data, DIRECTORY);
  return {
    dir,
    api: join(dir, "api"),
    keyring: join(dir, "keyring"),
    gatewayKey: join(dir, "gateway.key"),
    config: join(dir, "config.toml"),
    ready: join(dir, READY),
  };
}

/** Says of an appliance from what it was restored, and whether that is a trial beside the original. */
const RESTORED = "restored";
const TRIAL = "trial";

export const restoredText = (id: BackupId, trial: boolean): string => `${id}\n${trial ? `${TRIAL}\n` : ""}`;

/** What it says; null of an appliance into which nothing was restored. */
export function restoredFrom(data: string): string | null {
  const file = join(data, RESTORED);
  return existsSync(file) ? readFileSync(file, "utf8") : null;
}

export function isTrial(data: string): boolean {
  return restoredFrom(data)?.split("\n").includes(TRIAL) ?? false;
}

const LOOK_EVERY_MS = 20;

/** Ends a restore that had all together; whether there was one. As root, before anything of the instance is opened. */
export function placeRestored(data: string): boolean {
  const staging = stagingOf(data);
  if (!existsSync(staging.ready)) return false;
  // The roles' preparations run beside each other.
  const fd = openSync(data, "r");
  try {
    while (!tryLock(fd, "exclusive")) Bun.sleepSync(LOOK_EVERY_MS);
    if (!existsSync(staging.ready)) return false;
    move(staging, data);
  } catch (error) {
    // A unit's own view shows the directory mounted, where it can't be moved.
    if (!["EBUSY", "EROFS"].includes(String((error as NodeJS.ErrnoException).code))) throw error;
    throw new AppError(
      "conflict",
      "A restore was interrupted at its end; call cofferdam restore once more.",
      {
        cause: error,
      },
    );
  } finally {
    closeSync(fd);
  }
  return true;
}

function move({ dir, api, keyring, gatewayKey, config, ready }: Staging, data: string): void {
  if (existsSync(api)) {
    const place = join(data, "api");
    if (existsSync(place)) {
      const before = join(dir, "api.before");
      // Of a restore that had ended, but for the removal of what it had replaced.
      rmSync(before, { recursive: true, force: true });
      renameSync(place, before);
    }
    renameSync(api, place);
  }
  if (existsSync(keyring)) {
    // The one here is of the secret that goes. A backup from before there was a gateway brings none.
    if (!existsSync(gatewayKey)) rmSync(join(data, "gateway.key"), { force: true });
    renameSync(keyring, join(data, "keyring"));
  }
  if (existsSync(gatewayKey)) renameSync(gatewayKey, join(data, "gateway.key"));
  // One that is there was given to this host.
  if (existsSync(config) && !existsSync(join(data, "config.toml")))
    renameSync(config, join(data, "config.toml"));
  copyFileSync(ready, join(data, RESTORED));
  // They would be taken for this appliance's.
  rmSync(join(data, "first-keys.json"), { force: true });
  syncDirectory(dir);
  syncDirectory(data);
  rmSync(ready);
  syncDirectory(dir);
  rmSync(dir, { recursive: true, force: true });
}
