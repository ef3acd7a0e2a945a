import type { CredentialId, NamespaceId, RunId, WorkspaceId } from "../ids.ts";
import type { RunFate } from "../protocol/sandboxd.ts";
import { grantsOf, isOver, type Run } from "./run.ts";

/** "settling": it is over for its caller, and what is left to be done is done. */
type Phase = "queued" | "preparing" | "running" | "ending" | "settling";

/** What api knows of a run of which something is left to be done, beside its row. */
export interface Life {
  readonly id: RunId;
  readonly workspaceId: WorkspaceId;
  readonly namespaceId: NamespaceId;
  readonly credentials: readonly CredentialId[];
  phase: Phase;
  /** false after a restart, until it has been told again what to start. */
  launched: boolean;
  /** How far the gateway's records of it have been taken over. */
  gatewaySeq: number;
  /** Aborted once it is to be stopped. */
  readonly stopping: AbortController;
  /** Its sandbox is gone, and its row keeps this. */
  readonly ended: PromiseWithResolvers<RunFate>;
  /** Its row says that it is over. */
  readonly over: PromiseWithResolvers<void>;
  /** Nothing is left to be done. */
  readonly settled: PromiseWithResolvers<void>;
}

export function lifeOf(run: Run): Life {
  const { llm, git } = grantsOf(run);
  return {
    id: run.id,
    workspaceId: run.workspaceId,
    namespaceId: run.namespaceId,
    credentials: [...llm, ...(git === null ? [] : [git])].map(({ credential }) => credential),
    phase: phaseOf(run),
    launched: false,
    gatewaySeq: run.gatewaySeq,
    stopping: new AbortController(),
    ended: Promise.withResolvers(),
    over: Promise.withResolvers(),
    settled: Promise.withResolvers(),
  };
}

export function phaseOf(run: Run): Phase {
  if (isOver(run)) return "settling";
  if (run.fate !== null) return "ending";
  // By what its row says it is one of these.
  return run.status as "queued" | "preparing" | "running";
}
