import { codeOf } from "../errors.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import type { NamespaceId } from "../ids.ts";
import { Descriptor } from "./descriptor.ts";

/** A namespace's directories, open for one call. */
export interface Space extends Disposable {
  /** What the tenant sees as workspace/. */
  readonly live: Descriptor;
  /** Beside it, on the same file system and out of the tenant's sight: what is not whole yet, or being deleted. */
  readonly tmp: Descriptor;
}

const { O_PATH, O_DIRECTORY } = constants;

/** null when the namespace has no volume. */
export function openSpace(volumes: Descriptor, id: NamespaceId): Space | null {
  const open = (name: string) =>
    new Descriptor(openBeneath(volumes.fd, `${id}/${name}`, O_PATH | O_DIRECTORY, 0, { noSymlinks: true }));
  try {
    const live = open("live");
    try {
      const tmp = open("tmp");
      return {
        live,
        tmp,
        [Symbol.dispose]() {
          live[Symbol.dispose]();
          tmp[Symbol.dispose]();
        },
      };
    } catch (error) {
      live[Symbol.dispose]();
      throw error;
    }
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    throw error;
  }
}
