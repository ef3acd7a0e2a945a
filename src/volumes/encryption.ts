import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import { isEmptyDirectory } from "../kernel/directory.ts";
import { identifierOf, KEY_BYTES, keyState, policyOf } from "../kernel/fscrypt.ts";
import type { NamespaceKey } from "../keys/namespace-keys.ts";
import type { SandboxdClient } from "../sandbox/sandboxd-client.ts";
import type { Descriptor } from "./descriptor.ts";

/** What stands between a namespace's directory and its files, where the file system encrypts. */
export interface Encryption {
  /** `volume` is the directory, open for reading: new and empty, or as it was left. */
  unlock(id: NamespaceId, volume: Descriptor): Promise<void>;
  /**
   * Absence is a success. false: a file that was open in this moment stays readable, also once it is closed, until this
   * is asked for again. Throws while a sandbox has the volume.
   */
  lock(id: NamespaceId): Promise<boolean>;
}

/** For tests of what is not about it. */
export const unencrypted: Encryption = { unlock: async () => {}, lock: async () => true };

export interface EncryptionParts {
  readonly sandboxd: Pick<SandboxdClient, "call">;
  readonly keyOf: (id: NamespaceId) => Promise<NamespaceKey>;
}

/**
 * fscrypt, by sandboxd: the kernel gives the keys of all users but root little room. Whether a volume is unlocked already
 * the kernel tells anybody, so that what is stays usable while sandboxd is away.
 */
export function createEncryption({ sandboxd, keyOf }: EncryptionParts): Encryption {
  return {
    async unlock(id, volume) {
      const policy = policyOf(volume.fd);
      if (policy.kind === "unable") return;
      // From before this file system could. Its new files are in the clear, as the old ones are.
      if (policy.kind === "none" && !isEmptyDirectory(volume.fd)) return;
      const key = (await keyOf(id)).derive("files", KEY_BYTES);
      if (policy.kind === "key") {
        const { identifier } = policy;
        if (identifier === identifierOf(key) && keyState(volume.fd, identifier) === "present") return;
      }
      const args = { namespace: id, key: Buffer.from(key).toString("hex") };
      if ((await sandboxd.call("unlockVolume", args)).state !== "foreign") return;
      throw new AppError(
        "unavailable",
        "The namespace's files are encrypted with a key that this server does not have. Its operator may restore the database and the keyring from one backup.",
      );
    },

    async lock(id) {
      const { state } = await sandboxd.call("lockVolume", { namespace: id });
      if (state === "attached") throw new Error("a sandbox has it");
      return state !== "busy";
    },
  };
}
