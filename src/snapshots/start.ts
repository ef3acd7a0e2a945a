import type { Ledger } from "../audit/ledger.ts";
import { createHolds, type Holds } from "../blobs/holds.ts";
import { createSealedBlobs } from "../blobs/sealed.ts";
import type { NamespaceId } from "../ids.ts";
import type { NamespaceKeys } from "../keys/namespace-keys.ts";
import type { Volumes } from "../volumes/volumes.ts";
import { createSnapshotMaker, type Standstill } from "./create.ts";
import { startScrub } from "./scrub.ts";
import { createSnapshots, type SnapshotsParts } from "./snapshots.ts";

/** How often old snapshots are removed, and what could not be deleted is tried again. */
const SWEEP_EVERY_MS = 10 * 60_000;
/** How often all namespaces are gone through for what a crash has left. */
const COLLECT_EVERY_MS = 24 * 60 * 60_000;

export interface SnapshotsStart extends Omit<SnapshotsParts, "blobsOf" | "holds" | "maker" | "volumes"> {
  readonly volumes: Pick<Volumes, "replace" | "leases" | "space" | "mirror">;
  readonly keys: Pick<NamespaceKeys, "of">;
  readonly ledger: SnapshotsParts["ledger"] & Pick<Ledger, "append">;
  readonly standstill: Standstill;
  /** Whether to read all that is stored now and then, to find what the disk has lost. */
  readonly scrubs: boolean;
  /** Shared with whoever else stores blobs. */
  readonly holds?: Holds;
}

/** Snapshots, and what goes on with them while nobody asks, from `resume` on. */
export function startSnapshots(start: SnapshotsStart) {
  const { keys, standstill, scrubs, holds = createHolds(), ...parts } = start;
  const { volumes, store, log } = parts;
  const { leases, mirror } = volumes;
  const blobsOf = async (id: NamespaceId) =>
    createSealedBlobs({ store, namespace: id, key: await keys.of(id) });
  const openSpace = (id: NamespaceId) => volumes.space(id);
  const maker = createSnapshotMaker({ leases, openSpace, blobsOf, standstill, mirror });
  const snapshots = createSnapshots({ ...parts, blobsOf, holds, maker });
  const timers: Timer[] = [];
  const scrub: { current?: ReturnType<typeof startScrub> } = {};

  const failed = (what: string) => (error: unknown) => log.error(what, { cause: error });
  function sweep(): void {
    void snapshots.expire().catch(failed("old snapshots were not removed; it is tried again"));
    snapshots.tidy.again();
  }
  function collect(): void {
    void snapshots.tidy.all().catch(failed("blobs that nothing needs were not looked for"));
  }

  return {
    ...snapshots,
    maker,
    blobsOf,

    /** Begins to sweep. */
    resume(): void {
      timers.push(setInterval(sweep, SWEEP_EVERY_MS), setInterval(collect, COLLECT_EVERY_MS));
      sweep();
      // A bucket's server does that itself, and each byte that is read from one may be paid for.
      if (scrubs) scrub.current = startScrub({ snapshots, ledger: parts.ledger, log });
    },

    async stop(): Promise<void> {
      for (const timer of timers) clearInterval(timer);
      await scrub.current?.stop();
      await snapshots.stop();
    },
  };
}
