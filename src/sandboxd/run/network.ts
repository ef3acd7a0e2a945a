import type { RunId } from "../../ids.ts";
import type { OperationArgs, RunFate, RunNetwork } from "../../protocol/sandboxd.ts";

/** What a run needs of src/sandboxd/network. */
export interface RunNetworks {
  /** The run's network, its filter in force. It serves one start of a sandbox. */
  ensure(run: RunId): Promise<RunNetwork & { readonly netnsPath: string }>;
  openLanes(run: RunId, direct: OperationArgs<"admitRun">["direct"]): Promise<void>;
  /** Of its packets, by what they were. */
  drops(run: RunId): Promise<NonNullable<RunFate["dropped"]>>;
  /** Absence is a success. */
  remove(run: RunId): Promise<void>;
  /** Whether there is any, or something is left of one. */
  isLeft(): boolean;
  /** Whether the walls of what there is stand; mends them, and lets nothing pass before that. Cheap, and never rejects. */
  watch(): Promise<void>;
  /** Removes what nobody claims, and puts back rules that someone else has taken away. */
  reconcile(isClaimed: (run: RunId) => boolean): Promise<void>;
}
