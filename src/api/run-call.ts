import type { EventData, EventDraft, Origin } from "../audit/event.ts";
import { AppError } from "../errors.ts";
import { runId, type NamespaceId, type WorkspaceId } from "../ids.ts";
import type { Caller } from "../keys/caller.ts";
import type { Lease } from "../keys/calls.ts";
import { noRun, type Run } from "../runs/run.ts";
import type { RunRows } from "../runs/rows.ts";
import type { Access, ByIdCall } from "./auth.ts";

/** A call that names a run, allowed to its caller. */
export interface RunCall {
  readonly run: Run;
  readonly caller: Caller;
  readonly origin: Origin;
  /** What this call does to the run, for the audit log. */
  event(type: string, data: EventData): EventDraft;
  /** The call ends when its key is revoked or the run's namespace is deleted. */
  readonly hold: <T>(use: (lease: Lease) => Promise<T>) => Promise<T>;
}

export type RunCalls = ReturnType<typeof createRunCalls>;

export interface RunCallsParts {
  readonly access: Access;
  readonly rows: Pick<RunRows, "find">;
  readonly namespaces: { find(workspace: WorkspaceId, name: string): Promise<NamespaceId | null> };
}

/**
 * Who may do what with a run that exists: a workspace key with any of its workspace's, a locked key with its
 * namespace's. To everybody else it is the same 404 as one that never was.
 */
export function createRunCalls({ access, rows, namespaces }: RunCallsParts) {
  async function found(id: string, { caller, namespace }: ByIdCall): Promise<Run | null> {
    const parsed = runId.schema.safeParse(id);
    if (!parsed.success) return null;
    if (caller.scope === "operator") return rows.find(parsed.data);
    const { workspaceId } = caller;
    if (namespace === null) return rows.find(parsed.data, { workspaceId });
    return rows.find(parsed.data, {
      workspaceId,
      namespaceId: await namespaces.find(workspaceId, namespace),
    });
  }

  return {
    /** `admin`: whether an admin key may do this. */
    async of(request: Request, id: string, { admin = false } = {}): Promise<RunCall> {
      const call = await access.byId(request);
      const { caller, origin, hold } = call;
      if (caller.scope === "admin" && !admin) {
        throw new AppError("forbidden", "An admin key lists and cancels runs; use a workspace key for this.");
      }
      const run = await found(id, call);
      if (run === null) throw noRun(id);
      const { workspaceId, namespaceId, namespace } = run;
      return {
        run,
        caller,
        origin,
        event: (type, data) => ({
          chain: workspaceId,
          type,
          namespace,
          data: { run_id: run.id, ...data },
          origin,
        }),
        hold: async (use) => hold({ workspaceId, namespaceId, namespace }, use),
      };
    },
  };
}
