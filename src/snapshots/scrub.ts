import { setTimeout } from "node:timers/promises";
import { APPLIANCE, type EventDraft } from "../audit/event.ts";
import type { Ledger } from "../audit/ledger.ts";
import type { NamespaceId } from "../ids.ts";
import type { Log } from "../log.ts";
import type { Snapshots, VerifiedSnapshot } from "./snapshots.ts";

/** Of the time, for reading. */
const SHARE = 0.1;
const EVERY_MS = 7 * 24 * 60 * 60_000;
/** After a start, which has enough to do. */
const FIRST_AFTER_MS = 60 * 60_000;

interface ScrubParts {
  readonly snapshots: Pick<Snapshots, "verify" | "namespaces">;
  readonly ledger: Pick<Ledger, "append">;
  readonly log: Pick<Log, "error">;
  readonly firstAfterMs?: number;
}

/**
 * Reads all that snapshots need once a week, slowly, and tells of what is damaged before somebody needs it: in the log,
 * and to the workspace by an event.
 */
export function startScrub({ snapshots, ledger, log, firstAfterMs = FIRST_AFTER_MS }: ScrubParts) {
  const stopping = new AbortController();
  const { signal } = stopping;
  const pause = async (ms: number) => setTimeout(ms, undefined, { signal, ref: false });

  async function pass(): Promise<void> {
    const pace = createPace(pause);
    for (const namespaceId of shuffled(await snapshots.namespaces())) {
      for await (const one of snapshots.verify({ namespaceId }, { signal, pace })) await tell(one);
    }
  }

  async function tell({ snapshot, damage }: VerifiedSnapshot): Promise<void> {
    if (damage.length === 0) return;
    const { id, label, workspaceId, namespace } = snapshot;
    log.error("a snapshot is damaged", {
      namespace: snapshot.namespaceId,
      snapshot: id,
      blobs: damage.length,
    });
    const events = damage.map(({ blob, reason, paths, more, list }): EventDraft => ({
      chain: workspaceId,
      type: "snapshot.damaged",
      namespace,
      data: { snapshot_id: id, label, blob, reason, paths, more, list },
      origin: APPLIANCE,
    }));
    await ledger.append(events);
  }

  async function run(): Promise<void> {
    await pause(firstAfterMs);
    for (;;) {
      const next = pause(EVERY_MS);
      // When it is stopped before that is awaited.
      next.catch(() => {});
      await pass().catch((error: unknown) => {
        if (!signal.aborted)
          log.error("snapshots were not verified; it is tried again in a week", { cause: error });
      });
      await next;
    }
  }
  // It ends by being stopped, and in no other way.
  const running = run().catch(() => {});

  return {
    async stop(): Promise<void> {
      stopping.abort();
      await running;
    },
  };
}

/** To be awaited after each piece of work. */
function createPace(pause: (ms: number) => Promise<void>): () => Promise<void> {
  let since = performance.now();
  return async () => {
    await pause((performance.now() - since) * (1 / SHARE - 1));
    since = performance.now();
  };
}

/** A restart begins anew: in another order, so that nobody is always the last. */
function shuffled(ids: readonly NamespaceId[]): NamespaceId[] {
  return ids
    .map((id) => ({ id, at: Math.random() }))
    .toSorted((a, b) => a.at - b.at)
    .map(({ id }) => id);
}
