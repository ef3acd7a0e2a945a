import { asc, count, eq } from "drizzle-orm";
import type { Database } from "../db/open.ts";
import { workspaces as table } from "../db/schema.ts";
import { workspaceId, type WorkspaceId } from "../ids.ts";

export interface Workspace {
  readonly id: WorkspaceId;
  readonly name: string;
  readonly createdAt: number;
}

export type Workspaces = ReturnType<typeof createWorkspaces>;

export function createWorkspaces({ db }: { readonly db: Database }) {
  return {
    async create(name: string): Promise<Workspace> {
      const workspace = { id: workspaceId.make(), name, createdAt: Date.now() };
      await db.insert(table).values(workspace);
      return workspace;
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
