import { eq } from "drizzle-orm";
import type { Database } from "../db/open.ts";
import { namespaces as table } from "../db/schema.ts";
import type { NamespaceId } from "../ids.ts";

export type Epochs = ReturnType<typeof createEpochs>;

/** The last epoch that a namespace was claimed with, beside the bucket: a head that is gone, or older, is noticed. */
export function createEpochs(db: Database) {
  return {
    /** 0 before the first claim. */
    async of(id: NamespaceId): Promise<number> {
      const [row] = await db.select({ epoch: table.claimedEpoch }).from(table).where(eq(table.id, id));
      return row?.epoch ?? 0;
    },
    async note(id: NamespaceId, epoch: number): Promise<void> {
      await db.update(table).set({ claimedEpoch: epoch }).where(eq(table.id, id));
    },
  };
}
