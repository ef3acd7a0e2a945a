import type { WorkspaceId } from "../../ids.ts";
import { createAdmission, type Admission, type Release } from "../../sandbox/admission.ts";

/**
 * Walks over worktrees at once, since they share api's one thread with everybody's calls. However long those of one
 * workspace take, they leave places to others; within a workspace, its namespaces take turns.
 */
const PLACES = { concurrency: 4, perWorkspace: 2 };
const OF_ONE_NAMESPACE = 1;
const PATIENCE = { queue: 1000, maxWaitMs: 30_000 };

/** Whose worktree is looked at. */
interface Owner {
  readonly workspaceId: WorkspaceId;
  readonly namespaceId: string;
}

/** Turns for looks at worktrees. */
export function createLooks() {
  const places = createAdmission(() => ({
    ...PATIENCE,
    concurrency: PLACES.concurrency,
    perNamespace: PLACES.perWorkspace,
  }));
  /** Of each workspace that looks: those of its namespaces that come next. */
  const within = new Map<WorkspaceId, Admission>();

  function namespacesOf(workspace: WorkspaceId): Admission {
    const found = within.get(workspace);
    if (found !== undefined) return found;
    const limits = { ...PATIENCE, concurrency: Infinity, perNamespace: OF_ONE_NAMESPACE };
    const made = createAdmission(() => limits);
    within.set(workspace, made);
    return made;
  }

  return {
    /** Resolves when it may look; the release then has to be called, once. */
    async admit({ workspaceId, namespaceId }: Owner, signal?: AbortSignal): Promise<Release> {
      const namespaces = namespacesOf(workspaceId);
      const tidy = (): void => {
        if (namespaces.stats().namespaces === 0) within.delete(workspaceId);
      };
      const leave = await namespaces.admit(namespaceId, signal).finally(tidy);
      const end = (): void => {
        leave();
        tidy();
      };
      try {
        const release = await places.admit(workspaceId, signal);
        return () => {
          release();
          end();
        };
      } catch (error) {
        end();
        throw error;
      }
    },
  };
}
