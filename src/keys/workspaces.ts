import { asc, count, eq } from "drizzle-orm";
import type { Origin } from "../audit/event.ts";
import type { Change, Ledger } from "../audit/ledger.ts";
import type { Database } from "../db/open.ts";
import { workspaces as table } from "../db/schema.ts";
import { workspaceId, type WorkspaceId } from "../ids.ts";

export interface Workspace {
  readonly id: WorkspaceId;
  readonly name: string;
  readonly createdAt: number;
}

export type Workspaces = ReturnType<typeof createWorkspaces>;

export interface WorkspacesParts {
  readonly db: Database;
  readonly ledger: Pick<Ledger, "change">;
}

export function createWorkspaces({ db, ledger }: WorkspacesParts) {
  /** To be part of a change. */
  function creation(name: string, origin: Origin): Change & { readonly workspace: Workspace } {
    const workspace = { id: workspaceId.make(), name, createdAt: Date.now() };
    const event = { chain: workspace.id, type: "workspace.created", namespace: null, data: { name }, origin };
    return { statements: [db.insert(table).values(workspace)], events: [event], workspace };
  }

  return {
    creation,

    async create(name: string, origin: Origin): Promise<Workspace> {
      return ledger.change(async () => {
        const { workspace, ...part } = creation(name, origin);
        return { ...part, result: workspace };
      });
    },

    async list(): Promise<Workspace[]> {
      return db.select().from(table).orderBy(asc(table.createdAt), asc(table.id));
    },

    async exists(id: WorkspaceId): Promise<boolean> {
      const rows = await db.select({ n: count() }).from(table).where(eq(table.id, id));
      return rows[0]?.n === 1;
    },
  };
}
