import { count, isNull } from "drizzle-orm";
import type { Origin } from "../audit/event.ts";
import { unchanged, type Change, type Ledger } from "../audit/ledger.ts";
import type { Database } from "../db/open.ts";
import { setup, workspaces as workspaceTable } from "../db/schema.ts";
import type { WorkspaceId } from "../ids.ts";
import type { Keys } from "./keys.ts";
import type { Workspaces } from "./workspaces.ts";

export interface FirstKeys {
  readonly workspaceId: WorkspaceId;
  readonly adminKey: string;
  readonly workspaceKey: string;
}

export interface SetupParts {
  readonly db: Database;
  readonly ledger: Pick<Ledger, "change">;
  readonly keys: Keys;
  readonly workspaces: Workspaces;
}

const WORKSPACE = "main";
const KEYS = ["admin", "workspace"] as const;

/**
 * The first workspace and its keys. Keys are shown once, so a crash before they were handed over would lose them for
 * good: until `confirm`, `begin` makes them anew and takes the unseen ones back.
 */
export function createSetup({ db, ledger, keys, workspaces }: SetupParts) {
  /** The workspace whose keys are still to be handed over, with what makes it when it is not there; null for none. */
  async function pendingWorkspace(origin: Origin): Promise<(Change & { readonly id: WorkspaceId }) | null> {
    const [row] = await db.select().from(setup);
    if (row !== undefined) {
      return row.doneAt === null ? { id: row.workspaceId, statements: [], events: [] } : null;
    }
    const [existing] = await db.select({ n: count() }).from(workspaceTable);
    if (existing?.n !== 0) return null;
    const { workspace, statements, events } = workspaces.creation(WORKSPACE, origin);
    const { id } = workspace;
    return { id, statements: [...statements, db.insert(setup).values({ id: 1, workspaceId: id })], events };
  }

  return {
    /** null when there is nothing to set up. */
    async begin(origin: Origin): Promise<FirstKeys | null> {
      const made = await ledger.change(async () => {
        const pending = await pendingWorkspace(origin);
        if (pending === null) return unchanged(null);
        const { id } = pending;
        const unseen = (await keys.working(id)).filter(
          ({ name, lastUsedAt }) => KEYS.some((own) => own === name) && lastUsedAt === null,
        );
        const [admin, workspace] = KEYS.map((scope) =>
          keys.creation({ workspaceId: id, name: scope, scope, namespace: null }, origin),
        ) as [ReturnType<Keys["creation"]>, ReturnType<Keys["creation"]>];
        const parts: Change[] = [pending, keys.revocation(id, unseen, origin), admin, workspace];
        return {
          statements: parts.flatMap(({ statements }) => statements),
          events: parts.flatMap(({ events }) => events),
          result: {
            unseen: unseen.map((key) => key.id),
            first: { workspaceId: id, adminKey: admin.key.apiKey, workspaceKey: workspace.key.apiKey },
          },
        };
      });
      if (made === null) return null;
      keys.end(made.unseen);
      return made.first;
    },

    /** The keys of the last `begin` are in safe hands. */
    async confirm(origin: Origin): Promise<void> {
      await ledger.change(async () => {
        const [row] = await db.select().from(setup).where(isNull(setup.doneAt));
        if (row === undefined) return unchanged(undefined);
        const data = { workspace_id: row.workspaceId };
        return {
          statements: [db.update(setup).set({ doneAt: Date.now() })],
          events: [{ chain: row.workspaceId, type: "setup.finished", namespace: null, data, origin }],
          result: undefined,
        };
      });
    },
  };
}

export type Setup = ReturnType<typeof createSetup>;
