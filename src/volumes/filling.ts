import type { NamespaceId } from "../ids.ts";
import type { Descriptor } from "./descriptor.ts";

/** Where a volume's files come from before its first use, when it does not begin empty. */
export interface Filling {
  isPending(id: NamespaceId): boolean;
  /** Makes them in an empty directory, which no tenant sees yet. */
  build(id: NamespaceId, root: Descriptor): Promise<void>;
  /** They are in their place, on the disk. */
  done(id: NamespaceId): Promise<void>;
}

export const unfilled: Filling = {
  isPending: () => false,
  build: async () => {},
  done: async () => {},
};
