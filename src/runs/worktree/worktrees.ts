import { readFile, writeFile } from "node:fs/promises";
import { APPLIANCE, type EventData, type EventDraft } from "../../audit/event.ts";
import type { Ledger } from "../../audit/ledger.ts";
import { unchanged } from "../../audit/ledger.ts";
import type { Judge } from "../../audit/settle.ts";
import { AppError, codeOf } from "../../errors.ts";
import { runId, type NamespaceId, type RunId } from "../../ids.ts";
import { syncFileSystem } from "../../kernel/syncfs.ts";
import type { Log } from "../../log.ts";
import { usageOf } from "../../volumes/usage.ts";
import type { SealedBlobs } from "../../blobs/sealed.ts";
import { readHead } from "../../snapshots/manifest.ts";
import { createBlobReader } from "../../snapshots/reader.ts";
import { createPause } from "../../volumes/pause.ts";
import { isOver, noRun, type Run } from "../run.ts";
import type { RunRows } from "../rows.ts";
import { baseOf, hashOf, type Base } from "./base.ts";
import { entriesOf } from "./before.ts";
import { changesOf, type Change } from "./compare.ts";
import { diffOf, type Diff, type DiffParts } from "./diff.ts";
import { createLooks } from "./looks.ts";
import { merge, type Merged, type MergeParts } from "./merge.ts";
import { BOOT, KEPT, noWorktree, openPlaces } from "./place.ts";
import type { OnConflict } from "./plan.ts";
import { resultOf, type Result } from "./result.ts";
import { readStamps } from "./stamps.ts";
import { createMaking, type MakeCall, type Made, type MakeParts } from "./make.ts";

export interface WorktreesParts extends Omit<MakeParts, "rows" | "volumes">, MergeParts {
  /** Of all runs. */
  readonly dir: string;
  readonly rows: Pick<RunRows, "find" | "update" | "updating" | "withWorktree">;
  readonly ledger: Pick<Ledger, "change" | "begin">;
  /** Blobs of this namespace may be needed no more. */
  readonly tidy: (id: NamespaceId) => void;
  readonly bootId: string;
  readonly log: Pick<Log, "info" | "warn">;
}

interface Compared extends DiffParts {
  readonly row: Run;
  readonly base: Base;
  readonly blobs: SealedBlobs;
}

export interface Settled extends Result {
  /** Of the manifest that the run began with; null for none. */
  readonly base: string | null;
}

/** Of a row whose worktree has become part of its namespace. */
const GONE_INTO = { worktree: "merged", base: null } as const;

/** Below 0: it has less. */
export interface Growth {
  readonly bytes: number;
  readonly entries: number;
}

/** Who asks. */
export interface WorktreeCall {
  readonly event: (type: string, data: EventData) => EventDraft;
}

export type Worktrees = ReturnType<typeof createWorktrees>;

/**
 * What runs work in: a directory each, made from the namespace's files, a snapshot or nothing, and kept until it is merged,
 * discarded or old. A row's `worktree` and `base` are changed here alone.
 */
export function createWorktrees(parts: WorktreesParts) {
  const { rows, ledger, bootId, log } = parts;
  const places = openPlaces(parts.dir);
  const making = createMaking(parts);
  const looks = createLooks();
  /** A worktree that is being merged must not be thrown away: what is gone from it would be what the run has deleted. */
  const merging = new Set<RunId>();
  const discarding = new Map<RunId, Promise<void>>();

  /** So that a power cut does not leave a worktree with less in it than the run was given, which would look like its work. */
  async function keep(run: RunId): Promise<void> {
    using work = places.work(run);
    if (work === null) return;
    await syncFileSystem(work.fd);
    using still = places.work(run);
    if (still === null) return;
    using own = places.run(run);
    await writeFile(own.entry(KEPT), "", { mode: 0o600 });
  }

  /** What is left of a worktree that is none any more. */
  async function forget(run: RunId): Promise<void> {
    await places.remove(run);
    const row = await rows.find(run);
    if (row !== null) parts.tidy(row.namespaceId);
  }

  /** Whether what is on the disk is what the run was given, or left. */
  async function isKept(run: RunId): Promise<boolean> {
    using work = places.work(run);
    if (work === null) return false;
    using own = places.run(run);
    if (await isThere(own.entry(KEPT))) return true;
    return (await readFile(own.entry(BOOT), "utf8").catch(() => "")) === bootId;
  }

  /** Whoever takes a worktree away moves it first: one that is still there has lost nothing by that. */
  function refuseGone(run: RunId): void {
    using work = places.work(run);
    if (work === null) throw noWorktree(run);
  }

  async function* stillThere(
    run: RunId,
    changes: AsyncGenerator<Change, void>,
  ): AsyncGenerator<Change, void> {
    yield* changes;
    refuseGone(run);
  }

  /** A worktree, its base and how it differs from that. */
  async function comparing<T>(
    run: RunId,
    signal: AbortSignal | undefined,
    use: (parts: Compared) => Promise<T>,
  ): Promise<T> {
    const row = await rows.find(run);
    if (row === null) throw noRun(run);
    if (!isOver(row) && row.worktree !== "ready") {
      throw new AppError("conflict", `${run} has not begun yet; its worktree is not made.`);
    }
    const base = baseOf(row);
    using work = places.work(run);
    if (work === null || base === null) throw noWorktree(run);
    using own = places.run(run);
    const blobs = await parts.blobsOf(row.namespaceId);
    const pause = createPause(signal);
    const all = changesOf({
      work,
      base: entriesOf(blobs, base, await readStamps(own)),
      reader: createBlobReader(blobs),
      pause,
    });
    const changes = stillThere(run, all);
    try {
      return await use({ row, base, work, blobs, changes, pause });
    } finally {
      await all.return();
    }
  }

  /** The same in turn, for who has asked for it. */
  async function looking<T>(
    run: RunId,
    signal: AbortSignal | undefined,
    use: (parts: Compared) => Promise<T>,
  ): Promise<T> {
    const found = await rows.find(run);
    if (found === null) throw noRun(run);
    const release = await looks.admit(found, signal);
    try {
      return await comparing(run, signal, use);
    } finally {
      release();
    }
  }

  /** Throws it away. Of one that is gone already nothing is said. */
  async function discard(run: RunId, call: WorktreeCall, reason = "asked"): Promise<void> {
    if (merging.has(run)) throw new AppError("conflict", `${run} is being merged; wait for that.`);
    const under = discarding.get(run);
    if (under !== undefined) return under;
    const done = throwAway(run, call, reason).finally(() => void discarding.delete(run));
    discarding.set(run, done);
    return done;
  }

  async function throwAway(run: RunId, call: WorktreeCall, reason: string): Promise<void> {
    await ledger.change(async () => {
      const found = await rows.find(run);
      if (found === null || found.worktree === "discarded" || found.worktree === "none") {
        return unchanged(undefined);
      }
      if (!isOver(found)) {
        throw new AppError("conflict", `${run} has not ended; cancel it first.`);
      }
      if (found.worktree === "merged") return unchanged(undefined);
      return {
        statements: [rows.updating(run, { worktree: "discarded", base: null })],
        events: [call.event("run.discarded", { run_id: run, reason })],
        result: undefined,
      };
    });
    await forget(run);
  }

  async function begun(run: RunId, { manifest }: Base): Promise<{ bytes: number; files: number }> {
    const row = await rows.find(run);
    if (manifest === null || row === null) return { bytes: 0, files: 0 };
    return readHead(await parts.blobsOf(row.namespaceId), manifest);
  }

  return {
    /** An empty worktree, for a sandbox that boots before anybody knows what is to be in it. */
    prepare(run: RunId): void {
      places.prepare(run)[Symbol.dispose]();
    },

    /**
     * Fills a run's worktree, in place: a sandbox may have it mounted. The namespace goes on meanwhile. What a try before
     * has left goes; when it fails, the worktree is empty.
     */
    async make(call: MakeCall): Promise<Made> {
      const { id } = call.run;
      using work = places.prepare(id);
      using own = places.run(id);
      await places.empty(work);
      await rows.update(id, { worktree: "making" });
      await writeFile(own.entry(BOOT), bootId, { mode: 0o600 });
      let made: Made;
      try {
        made = await making.make(call, { own, work });
      } catch (error) {
        await places.empty(work);
        throw error;
      }
      await rows.update(id, { worktree: "ready" });
      void keep(id).catch((cause: unknown) =>
        log.warn("a worktree did not reach the disk; a power cut may cost it", { run: id, cause }),
      );
      return made;
    },

    /** What it has more than its run found in it; a file with several names counts once. */
    async measure(run: RunId): Promise<Growth> {
      using work = places.work(run);
      const base = baseOf((await rows.find(run)) ?? { base: null });
      if (work === null || base === null) return { bytes: 0, entries: 0 };
      const { bytes, files, directories } = await usageOf({ live: work });
      const had = await begun(run, base);
      return { bytes: bytes - had.bytes, entries: files + directories - had.files };
    },

    /** What has changed in it since it was made; while its run goes on, about now. */
    async diff(run: RunId, signal?: AbortSignal): Promise<Diff & { readonly base: string | null }> {
      return looking(run, signal, async (compared) => {
        const diff = await diffOf(compared);
        // Perhaps it did not look at all of it.
        refuseGone(run);
        return { base: hashOf(compared.base), ...diff };
      });
    },

    /** Once its run is over: what it left, which the row and the receipt say. */
    async settle(run: RunId, signal?: AbortSignal): Promise<Settled> {
      return comparing(run, signal, async ({ base, changes, pause }) => {
        const result = await resultOf(changes, pause);
        await rows.update(run, { result });
        return { base: hashOf(base), ...result };
      });
    },

    /**
     * Puts what the run has changed into its namespace, all or nothing; the worktree is gone afterwards. Throws MergeConflict
     * when both sides have changed a path and `onConflict` does not say whose counts.
     */
    async merge(run: RunId, call: WorktreeCall, onConflict: OnConflict = "fail"): Promise<Merged> {
      if (merging.has(run)) throw new AppError("conflict", `${run} is being merged already.`);
      if (discarding.has(run)) throw new AppError("conflict", `${run} is being discarded.`);
      merging.add(run);
      try {
        const merged = await looking(run, undefined, async ({ row, ...compared }) => {
          if (!isOver(row))
            throw new AppError("conflict", `${run} has not ended; wait for it, or cancel it.`);
          return merge(parts, {
            ...compared,
            run,
            namespaceId: row.namespaceId,
            onConflict,
            announce: async (data) =>
              ledger.begin({ ...call.event("run.merged", data), namespaceId: row.namespaceId }),
            made: async () => rows.update(run, GONE_INTO),
          });
        });
        // Nobody waits for it; a start would do the same.
        void forget(run).catch((cause: unknown) =>
          log.warn("a merged worktree was not removed; a start does it", { run, cause }),
        );
        return merged;
      } finally {
        merging.delete(run);
      }
    },

    discard,

    /** Throws away those whose runs ended longer ago; how many. */
    async expire(keepMs: number): Promise<number> {
      const old = await rows.withWorktree({ finishedBefore: Date.now() - keepMs });
      let removed = 0;
      for (const run of old) {
        // It is being merged, say. There will be another time.
        await discard(run.id, ownCall(run), "expired").then(
          () => (removed += 1),
          (cause: unknown) => log.warn("an old worktree was not removed", { run: run.id, cause }),
        );
      }
      return removed;
    },

    /** For a namespace that goes, with its runs' rows. */
    remove: async (run: RunId) => places.remove(run),

    /** At a start, before any run has another worktree: what a crash has left, also of runs without a row. */
    async resume(): Promise<void> {
      await places.sweep();
      const found = await rows.withWorktree();
      const wanted = new Set<string>(found.map(({ id }) => id));
      for (const name of places.runs()) {
        const id = runId.schema.safeParse(name);
        if (id.success && !wanted.has(name)) await places.remove(id.data);
      }
      for (const { id } of found) {
        if (await isKept(id)) continue;
        log.warn("a run's worktree is not what it was: the machine stopped before it was on the disk", {
          run: id,
        });
        await rows.update(id, { worktree: "discarded", base: null });
        await places.remove(id);
      }
    },

    close: () => places.close(),
  };
}

/** What `judge` says of a merge that a crash cut short, its row says too, before the event does. */
export function mergeJudge(judge: Judge, rows: Pick<RunRows, "update">): Judge {
  return async (announced, namespaceId) => {
    const judged = await judge(announced, namespaceId);
    const run = runId.schema.safeParse(announced["run_id"]);
    if (judged.fate === "made" && run.success) await rows.update(run.data, GONE_INTO);
    return judged;
  };
}

/** What the appliance does by itself. */
function ownCall({ workspaceId, namespace }: Run): WorktreeCall {
  return {
    event: (type, data) => ({ chain: workspaceId, type, namespace, data, origin: APPLIANCE }),
  };
}

async function isThere(path: string | Buffer): Promise<boolean> {
  try {
    await readFile(path);
    return true;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return false;
    throw error;
  }
}
