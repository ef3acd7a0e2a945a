import { closeSync, fstatSync, fsyncSync } from "node:fs";
import { basename, relative } from "node:path";
import { AppError } from "../errors.ts";
import type { Instance } from "./instance.ts";
import { isEmptyDirectory } from "../kernel/directory.ts";
import { addKey, identifierOf, KEY_BYTES, policyOf, removeKey, setPolicy } from "../kernel/fscrypt.ts";
import { KernelError } from "../kernel/libc.ts";
import { constants, fchmodFd, fchownFd, mkdirAt, openBeneath } from "../kernel/openat2.ts";
import { openOwned } from "../kernel/owned.ts";
import { syncFileSystem } from "../kernel/syncfs.ts";
import { roleUser } from "../kernel/users.ts";
import { withoutApi } from "./presence.ts";
import { createSecrets } from "../secrets.ts";
import { moveDatabase } from "./state-move.ts";

const OPEN = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
const PURPOSE = "appliance files";

/** One of api's directories, below a unit's own view of it. */
function openOwn({ data }: Instance, path: string): number {
  return openOwned(data, relative(data, path), constants.O_RDONLY, roleUser("cofferdam"), { mounts: true });
}

/** Makes the directory of the appliance's own files, the database above all: as root, for api. */
export function ensureState(instance: Instance): void {
  const { api } = instance;
  const user = roleUser("cofferdam");
  withClosed(openOwn(instance, api.dir), (parent) => {
    try {
      mkdirAt(parent, basename(api.state), 0o700);
    } catch (error) {
      if (!(error instanceof KernelError) || error.code !== "EEXIST") throw error;
    }
    withClosed(openBeneath(parent, basename(api.state), OPEN), (state) => {
      // New, or left so by a crash right here.
      if (fstatSync(state).uid !== 0) return;
      fchownFd(state, user.uid, user.gid);
      fchmodFd(state, 0o700);
      fsyncSync(parent);
    });
  });
}

/**
 * Unlocks the appliance's own files by a key that only its secret gives, where the file system can encrypt: as root,
 * before api starts, which can't. The database of an instance from before there was such a directory moves into it.
 */
export async function openState(instance: Instance, secret: Uint8Array): Promise<void> {
  ensureState(instance);
  const state = openOwn(instance, instance.api.state);
  try {
    const encrypted = unlock(state, createSecrets(secret).derive(PURPOSE, KEY_BYTES));
    await moveDatabase(instance, state, encrypted);
  } finally {
    closeSync(state);
  }
}

/** Takes their key out of the kernel, once no api lives. Absence is a success. */
export async function closeState(instance: Instance): Promise<void> {
  const { api } = instance;
  const policy = withClosed(openOwn(instance, api.state), policyOf);
  if (policy.kind !== "key") return;
  const parent = openOwn(instance, api.dir);
  try {
    await withoutApi(instance, async () => {
      await syncFileSystem(parent);
      removeKey(parent, policy.identifier);
    });
  } finally {
    closeSync(parent);
  }
}

/** Whether what lies in it is encrypted. */
function unlock(state: number, key: Uint8Array): boolean {
  const policy = policyOf(state);
  if (policy.kind === "unable") return false;
  // From before this file system could.
  if (policy.kind === "none" && !isEmptyDirectory(state)) return false;
  if (policy.kind === "foreign" || (policy.kind === "key" && policy.identifier !== identifierOf(key))) {
    throw new AppError(
      "unavailable",
      "The appliance's files are encrypted with a key that its keyring does not give; restore the data, keyring and master key of one backup.",
    );
  }
  const identifier = addKey(state, key);
  if (policy.kind === "none") setPolicy(state, identifier);
  return true;
}

function withClosed<T>(fd: number, work: (fd: number) => T): T {
  try {
    return work(fd);
  } finally {
    closeSync(fd);
  }
}
