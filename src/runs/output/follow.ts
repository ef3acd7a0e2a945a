import { closedSegments, type RunLog } from "./log.ts";
import { readAfter, type Entry } from "./read.ts";

export type Step =
  | { readonly kind: "entries"; readonly entries: readonly Entry[] }
  /** Up to here nothing is kept any more; so many bytes of output since the run began. */
  | { readonly kind: "gap"; readonly seq: number; readonly bytes: number }
  /** Nothing came for a while. */
  | { readonly kind: "idle" };

/** A run's output as its readers see it. */
export interface Source {
  readonly dir: string;
  /** null while nobody writes to it. */
  readonly log: () => RunLog | null;
  /** Whatever happens to it makes another number of it. */
  readonly version: () => number;
  /** Resolves once its version is not that one any more, or after so long, or with the signal. */
  readonly changed: (version: number, waitMs: number, signal: AbortSignal) => Promise<void>;
  /** Whether no more will come. */
  readonly isOver: () => boolean | Promise<boolean>;
}

export interface FollowOptions {
  /** The entry after which to begin; 0 for all. */
  readonly after: number;
  /** false: what there is by now, and no more. */
  readonly live: boolean;
  readonly idleMs: number;
}

/** Of one step. A reader holds no more than that, however far behind it is: the rest waits on the disk. */
const BATCH_BYTES = 64 * 1024;

/** The output of a run in order, each entry once, at the reader's own pace. */
export async function* follow(
  { dir, log, version, changed, isOver }: Source,
  { after, live, idleMs }: FollowOptions,
  signal: AbortSignal,
): AsyncGenerator<Step, void> {
  let at = after;
  while (!signal.aborted) {
    const seen = version();
    // Asked before looking: what comes until it is over is then found by the look.
    const over = !live || (await isOver());
    const open = log();
    const batch =
      open !== null && open.last <= at
        ? { gap: null, entries: [] }
        : await readAfter(dir, open?.segments() ?? closedSegments(dir), at, BATCH_BYTES);
    if (batch === null) continue;
    if (batch.gap !== null) {
      at = batch.gap.seq;
      yield { kind: "gap", ...batch.gap };
    }
    if (batch.entries.length > 0) {
      at = batch.entries.at(-1)?.seq ?? at;
      yield { kind: "entries", entries: batch.entries };
      continue;
    }
    if (over) return;
    await changed(seen, idleMs, signal);
    if (version() === seen) yield { kind: "idle" };
  }
}
