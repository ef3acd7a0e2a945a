import { closeSync, existsSync, fchownSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { AppError } from "../errors.ts";
import { writeOnce } from "../kernel/durable.ts";
import { roleUser } from "../kernel/users.ts";
import { newSealKey } from "../protocol/seal.ts";
import { createSecrets } from "../secrets.ts";
import type { Instance } from "./instance.ts";

/*
 * The gateway's private key, to which the credentials of runs are sealed. On the disk it is root's and sealed under the
 * appliance's secret: the gateway, which gets it opened, has no use for the file, and api, which has the secret, can't
 * see it.
 */
const PURPOSE = "gateway key";

/** Makes it the first time. As root. Throws an AppError when the secret does not open it. */
export function ensureGatewayKey({ gateway }: Instance, secret: Uint8Array): Uint8Array {
  const secrets = createSecrets(secret);
  if (!existsSync(gateway.keyFile)) {
    writeOnce(gateway.keyFile, secrets.seal(PURPOSE, newSealKey(), PURPOSE), { mode: 0o600 });
  }
  try {
    return secrets.open(PURPOSE, readFileSync(gateway.keyFile), PURPOSE);
  } catch (error) {
    throw new AppError(
      "unavailable",
      `${gateway.keyFile} is damaged or another appliance's; restore it from a backup.`,
      {
        cause: error,
      },
    );
  }
}

/**
 * Puts it, opened, where the gateway's start takes it away again; null = it can't be opened. The directory is the gateway's own,
 * so what lies there by that name may be anything: it is removed, and the file is made anew. Returns what is wrong with the key,
 * without which the gateway runs and lets nobody in.
 */
export function publishGatewayKey(instance: Instance, secret: Uint8Array | null): string | null {
  const path = instance.publishedGatewayKey;
  rmSync(path, { force: true });
  if (secret === null) return "the master key is kept elsewhere, and this start was not given it";
  try {
    putKey(path, ensureGatewayKey(instance, secret));
    return null;
  } catch (error) {
    if (error instanceof AppError) return error.message;
    throw error;
  }
}

function putKey(path: string, key: Uint8Array): void {
  const { uid, gid } = roleUser("cofferdam-gw");
  // "wx" follows no link.
  const fd = openSync(path, "wx", 0o400);
  try {
    writeSync(fd, key);
    fchownSync(fd, uid, gid);
  } finally {
    closeSync(fd);
    key.fill(0);
  }
}
