import { closeSync, constants, openSync } from "node:fs";
import { policyOf } from "../../kernel/fscrypt.ts";
import type { Check } from "../../protocol/sandboxd.ts";

const NOT_ENCRYPTED = "files at rest are not encrypted by Cofferdam: use an encrypted disk";
const FIX =
  "Encrypt the disk below, or install with --data-image on an empty data directory; docs/encryption.md says how.";

export interface AtRestParts {
  /** The directory of the appliance's own files. */
  readonly state: string;
  readonly countVolumes: () => Promise<{ readonly encrypted: number; readonly plain: number }>;
}

export type AtRest = ReturnType<typeof createAtRest>;

/** What the disk holds in the clear, for the operator. */
export function createAtRest({ state, countVolumes }: AtRestParts) {
  function own(): ReturnType<typeof policyOf> {
    const fd = openSync(state, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      return policyOf(fd);
    } finally {
      closeSync(fd);
    }
  }

  return {
    /** One sentence when something is; costs microseconds. */
    notices: (): string[] => (own().kind === "key" ? [] : [NOT_ENCRYPTED]),

    async check(): Promise<Check> {
      const name = "at rest";
      const { kind } = own();
      if (kind === "unable") return { name, status: "warn", detail: NOT_ENCRYPTED, fix: FIX };
      const { encrypted, plain } = await countVolumes();
      const ours = kind === "key" ? "the appliance's own files" : "not the appliance's own files";
      const detail = `encrypted by the file system: ${ours}, and those of ${encrypted} of ${encrypted + plain} namespaces`;
      if (kind === "key" && plain === 0) return { name, status: "ok", detail, fix: null };
      return {
        name,
        status: "warn",
        detail,
        fix: "The rest is from before this file system could; a restore of a backup on an empty one encrypts it.",
      };
    },
  };
}
