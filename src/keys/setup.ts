import { count } from "drizzle-orm";
import type { Database } from "../db/open.ts";
import { setup, workspaces } from "../db/schema.ts";
import { workspaceId, type WorkspaceId } from "../ids.ts";
import type { Keys } from "./keys.ts";

export interface FirstKeys {
  readonly workspaceId: WorkspaceId;
  readonly adminKey: string;
  readonly workspaceKey: string;
}

const WORKSPACE = "main";
const KEYS = ["admin", "workspace"] as const;

/**
 * The first workspace and its keys. Keys are shown once, so a crash before they were handed over would lose them for
 * good: until `confirm`, `begin` makes them anew and takes the unseen ones back.
 */
export function createSetup({ db, keys }: { readonly db: Database; readonly keys: Keys }) {
  async function pendingWorkspace(): Promise<WorkspaceId | null> {
    const [row] = await db.select().from(setup);
    if (row !== undefined) return row.doneAt === null ? row.workspaceId : null;
    const [existing] = await db.select({ n: count() }).from(workspaces);
    if (existing?.n !== 0) return null;
    const id = workspaceId.make();
    await db.batch([
      db.insert(workspaces).values({ id, name: WORKSPACE, createdAt: Date.now() }),
      db.insert(setup).values({ id: 1, workspaceId: id }),
    ]);
    return id;
  }

  return {
    /** null when there is nothing to set up. */
    async begin(): Promise<FirstKeys | null> {
      const workspace = await pendingWorkspace();
      if (workspace === null) return null;
      for (const key of await keys.list(workspace)) {
        const unseen = KEYS.some((name) => name === key.name) && key.lastUsedAt === null;
        if (unseen) await keys.revoke(workspace, key.id);
      }
      const make = async (scope: (typeof KEYS)[number]) => {
        const key = await keys.create({ workspaceId: workspace, name: scope, scope, namespace: null });
        return key.apiKey;
      };
      return { workspaceId: workspace, adminKey: await make("admin"), workspaceKey: await make("workspace") };
    },

    /** The keys of the last `begin` are in safe hands. */
    async confirm(): Promise<void> {
      await db.update(setup).set({ doneAt: Date.now() });
    },
  };
}

export type Setup = ReturnType<typeof createSetup>;
