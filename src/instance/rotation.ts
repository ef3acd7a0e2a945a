import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { AppError } from "../errors.ts";
import type { Instance } from "./instance.ts";
import { tryLock } from "../kernel/flock.ts";
import { renameDurably, replaceFile, writeOnce } from "../kernel/durable.ts";
import { roleUser } from "../kernel/users.ts";
import { keyringText, newSecret, openKeyring } from "./keyring.ts";

/** Every step of a rotation; `onStep` is called after each. */
export type RotationStep = "made" | "wrapped by both" | "switched" | "done";

/**
 * Gives an instance a new master key. The keyring is opened by both keys until the new one has taken the old one's
 * place, so a crash anywhere leaves an instance that starts, and a second call ends what the first began. Returns
 * whether it did that, rather than a rotation of its own.
 */
export function rotateMasterKey(
  instance: Instance,
  onStep: (step: RotationStep) => void = () => {},
): { readonly resumed: boolean } {
  const fd = openSync(instance.data, "r");
  try {
    // Between two at once there could be a moment when the keyring is opened by no key that is kept.
    if (tryLock(fd, "exclusive")) return rotate(instance, onStep);
    throw new AppError("conflict", "The master key is being rotated already; try again in a moment.");
  } finally {
    closeSync(fd);
  }
}

function rotate(
  { masterKeyFile, keyringFile }: Instance,
  onStep: (step: RotationStep) => void,
): { readonly resumed: boolean } {
  if (!existsSync(masterKeyFile)) {
    throw new AppError(
      "not_found",
      `${masterKeyFile} is not there; put the master key that is kept elsewhere into it, root's alone, for the rotation.`,
    );
  }
  const nextFile = `${masterKeyFile}.next`;
  const keyring = { mode: 0o640, gid: roleUser("cofferdam").gid };
  const current = readFileSync(masterKeyFile);
  const { secret, wraps } = openKeyring(keyringFile, current);
  const waiting = existsSync(nextFile);
  if (!waiting && wraps > 1) {
    // A crash after the switch: only the old key's entry is left to remove.
    replaceFile(keyringFile, keyringText(secret, [current]), keyring);
    onStep("done");
    return { resumed: true };
  }
  writeOnce(nextFile, newSecret(), { mode: 0o600 });
  onStep("made");
  const next = readFileSync(nextFile);
  replaceFile(keyringFile, keyringText(secret, [current, next]), keyring);
  onStep("wrapped by both");
  renameDurably(nextFile, masterKeyFile);
  onStep("switched");
  replaceFile(keyringFile, keyringText(secret, [next]), keyring);
  onStep("done");
  return { resumed: waiting };
}
