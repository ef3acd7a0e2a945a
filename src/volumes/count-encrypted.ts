import { codeOf } from "../errors.ts";
import { namespaceId } from "../ids.ts";
import { readDirectory } from "../kernel/directory.ts";
import { policyOf } from "../kernel/fscrypt.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import { OPEN_DIRECTORY } from "./beneath.ts";
import { Descriptor } from "./descriptor.ts";
import { createPause } from "./pause.ts";

/** How many volumes are under a key, and how many in the clear; their own files are not looked at. */
export async function countEncrypted(volumes: Descriptor): Promise<{ encrypted: number; plain: number }> {
  const count = { encrypted: 0, plain: 0 };
  const pause = createPause();
  using all = new Descriptor(openBeneath(volumes.fd, ".", OPEN_DIRECTORY));
  for (const batch of readDirectory(all.fd)) {
    for (const { name } of batch) {
      await pause();
      if (!namespaceId.schema.safeParse(Buffer.from(name).toString()).success) continue;
      try {
        using volume = new Descriptor(openBeneath(volumes.fd, name, OPEN_DIRECTORY | constants.O_NOFOLLOW));
        count[policyOf(volume.fd).kind === "key" ? "encrypted" : "plain"]++;
      } catch (error) {
        // Deleted since.
        if (codeOf(error) !== "ENOENT") throw error;
      }
    }
  }
  return count;
}
