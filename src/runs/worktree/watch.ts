import type { RunId } from "../../ids.ts";
import type { FilesystemStatus } from "../../kernel/statfs.ts";
import type { Log } from "../../log.ts";
import type { Floor } from "../../volumes/floor.ts";
import type { Growth } from "./worktrees.ts";

const MIB = 1024 * 1024;
/** How often the disk is looked at while runs write: a few microseconds each time. */
const TICK_MS = 100;
/** What the disk does not show is looked for this often: holes, and growth that hides behind another's deletion. */
const MEASURE_MS = 10_000;
/** The share of one core's time that measuring one worktree again and again may take. */
const SHARE = 0.1;
/** Below the disk's floor: what a worktree may have grown by since it was last known, and how long until all are stopped. */
const STRAY_BYTES = MIB;
const STRAY_ENTRIES = 256;
const STOP_ALL_AFTER_MS = 2_000;

export interface DiskWatchParts {
  readonly measure: (run: RunId) => Promise<Growth>;
  readonly floor: Pick<Floor, "status" | "isAbove">;
  readonly log: Pick<Log, "warn">;
}

interface Entry {
  readonly run: RunId;
  readonly limitBytes: number;
  /** Once, with why. */
  readonly stop: (why: string) => void;
  known: Growth;
  /** What the whole disk has lost since it was last measured: it can't have grown by more. */
  risen: number;
  measuring: Promise<void> | null;
  measuredAt: number;
  tookMs: number;
  over: boolean;
}

export type DiskWatch = ReturnType<typeof createDiskWatch>;

/**
 * Stops runs whose worktrees grow by more than they may, or that take the disk below its floor. Nothing tells api what a
 * run writes; but a worktree is only measured when the disk has lost as much as the run has left.
 */
export function createDiskWatch({ measure, floor, log }: DiskWatchParts) {
  const entries = new Set<Entry>();
  let ticking: Timer | undefined;
  let last: FilesystemStatus = floor.status();
  let shortSince: number | null = null;
  let relieving = false;

  function stop(entry: Entry, why: string): void {
    if (entry.over) return;
    entry.over = true;
    entry.stop(why);
  }

  async function remeasure(entry: Entry): Promise<void> {
    const begun = performance.now();
    entry.risen = 0;
    try {
      entry.known = await measure(entry.run);
    } catch (cause) {
      log.warn("a run's worktree could not be measured", { run: entry.run, cause });
    }
    entry.measuredAt = performance.now();
    entry.tookMs = entry.measuredAt - begun;
    if (entry.known.bytes > entry.limitBytes) {
      stop(entry, `It wrote more than its ${Math.floor(entry.limitBytes / MIB)} MiB of disk.`);
    }
  }

  function measured(entry: Entry): Promise<void> {
    return (entry.measuring ??= remeasure(entry).finally(() => (entry.measuring = null)));
  }

  async function relieve(since: number): Promise<void> {
    relieving = true;
    try {
      for (const entry of entries) {
        const before = entry.known;
        await measured(entry);
        const grown = entry.known.bytes - before.bytes > STRAY_BYTES;
        if (grown || entry.known.entries - before.entries > STRAY_ENTRIES) stop(entry, DISK_FULL);
      }
      if (performance.now() - since > STOP_ALL_AFTER_MS && !floor.isAbove(floor.status())) {
        for (const entry of entries) stop(entry, DISK_FULL);
      }
    } finally {
      relieving = false;
    }
  }

  function tick(): void {
    const now = floor.status();
    const risen = Math.max(0, last.availableBytes - now.availableBytes);
    last = now;
    for (const entry of entries) {
      entry.risen += risen;
      const since = performance.now() - entry.measuredAt;
      const mayBeOver = entry.known.bytes + entry.risen > entry.limitBytes;
      const rested = since > entry.tookMs / SHARE;
      if (!entry.over && rested && (mayBeOver || since > MEASURE_MS)) void measured(entry);
    }
    if (floor.isAbove(now)) shortSince = null;
    else {
      shortSince ??= performance.now();
      if (!relieving) void relieve(shortSince);
    }
  }

  return {
    /** From when its command begins. The answer is to be called when it is over. */
    watch(run: RunId, limitBytes: number, stop: (why: string) => void): () => void {
      const entry: Entry = {
        run,
        limitBytes,
        stop,
        known: { bytes: 0, entries: 0 },
        // What it has nobody knows yet: another api may have begun it.
        risen: Infinity,
        measuring: null,
        measuredAt: 0,
        tookMs: 0,
        over: false,
      };
      if (entries.size === 0) last = floor.status();
      entries.add(entry);
      ticking ??= setInterval(tick, TICK_MS);
      return () => {
        entries.delete(entry);
        if (entries.size > 0) return;
        clearInterval(ticking);
        ticking = undefined;
      };
    },
  };
}

const DISK_FULL = "It was stopped: the disk is nearly full.";
