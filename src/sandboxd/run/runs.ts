import { chmodSync, mkdirSync, readFileSync, watch } from "node:fs";
import type { Config } from "../../config/schema.ts";
import type { RunId } from "../../ids.ts";
import type { Log } from "../../log.ts";
import {
  RUN_GRACE_S,
  UNADMITTED_S,
  type OperationArgs,
  type OperationResult,
  type RunFate,
  type RunState,
} from "../../protocol/sandboxd.ts";
import { PROOF_RUNS } from "../../protocol/proof.ts";
import { explain, OperationError, StepError } from "../../protocol/lines/failure.ts";
import { createTurns } from "../../turns.ts";
import { readState } from "../runsc.ts";
import { admitted, bootRun, type RunDeps, type RunSandbox } from "./boot.ts";
import { fateOf, isOver, killSandbox } from "./fate.ts";
import { exitDirectory, runNames } from "./names.ts";
import { readFate, readRecord, writeFate, writeRecord } from "./record.ts";
import { runsOnHost } from "./survey.ts";
import { removeRun, removeSandbox, endSession, removeTraces } from "./teardown.ts";

const LOOK_EVERY_MS = 1_000;
/** Of the clock by which the kernel tells when a process was started: USER_HZ. */
const TICK_MS = 10;
const RECONCILE_EVERY_MS = 30_000;
/** Mostly it is to ask the kernel for one number. */
const WATCH_EVERY_MS = 200;

/** What a run is in. It ends once, and stays ended until it is forgotten. */
type Life =
  | { readonly kind: "starting" }
  | { readonly kind: "running"; readonly sandbox: RunSandbox; readonly clock: Timer | null }
  | { readonly kind: "ending"; readonly known: Promise<void> }
  /** `removed`: whether nothing is left of it but what is written. */
  | { readonly kind: "ended"; readonly fate: RunFate; readonly removed: Promise<boolean> };

export type RunsCeiling = Pick<Config["runs"], "live" | "pool">;

export interface RunsOptions extends RunDeps {
  /** The configuration as it is now: api takes a changed one without a restart of ours. Throws when it is wrong. */
  readonly ceiling: () => RunsCeiling;
  /** Instead of UNADMITTED_S. */
  readonly unadmittedMs?: number;
  readonly log: Log;
}

/** The table of runs. Resolves when what a sandboxd before this one left is settled. */
export async function createRuns(options: RunsOptions) {
  const { instance, config, cgroups, networks, log } = options;
  const lives = new Map<RunId, Life>();
  const lanes = createTurns();
  const waiting = new Set<() => void>();
  const state = { closing: false, ceiling: config.runs as RunsCeiling };
  const unadmittedMs = options.unadmittedMs ?? UNADMITTED_S * 1000;
  mkdirSync(exitDirectory(instance), { recursive: true, mode: 0o700 });
  mkdirSync(instance.sandboxd.worktrees, { recursive: true });
  chmodSync(instance.sandboxd.worktrees, 0o711);

  await adoptAll();
  await reconcileNetworks();
  const watcher = watch(exitDirectory(instance), look);
  watcher.unref();
  const looks = setInterval(look, LOOK_EVERY_MS);
  looks.unref();
  const reconciles = setInterval(() => {
    reconcile().catch((error: unknown) => log.error("runs were not reconciled", { error: explain(error) }));
  }, RECONCILE_EVERY_MS);
  reconciles.unref();
  const watches = setInterval(() => void networks.watch(), WATCH_EVERY_MS);
  watches.unref();

  // ---- one run ----

  async function start(run: RunId, spare: boolean): Promise<OperationResult<"startRun">> {
    const life = lives.get(run);
    if (life?.kind === "running") return answerOf(life.sandbox);
    if (life !== undefined) throw new OperationError("bad_request", `run ${run} is over`);
    if (state.closing) throw new OperationError("unavailable", "sandboxd is stopping");
    refuseOneMore();
    lives.set(run, { kind: "starting" });
    const started = performance.now();
    try {
      const sandbox = await bootRun(options, run, spare);
      enterRunning(run, sandbox);
      log.info("a run's sandbox is booted", { run, ms: Math.round(performance.now() - started) });
      return answerOf(sandbox);
    } catch (error) {
      lives.delete(run);
      throw error;
    }
  }

  /** api keeps to it by itself, unless it was taken over. What is ending does not count, since api may know of that already. */
  function refuseOneMore(): void {
    const booted = [...lives.values()].filter(({ kind }) => kind === "starting" || kind === "running").length;
    const isFull = () => booted >= state.ceiling.live + state.ceiling.pool + PROOF_RUNS;
    if (!isFull()) return;
    try {
      state.ceiling = options.ceiling();
    } catch (error) {
      log.warn("the configuration can't be read; the one before stays in force", { error: explain(error) });
    }
    if (isFull())
      throw new OperationError(
        "unavailable",
        `${booted} runs have sandboxes, all that [runs] live and pool allow`,
      );
  }

  async function admit({ run, direct, ...asked }: OperationArgs<"admitRun">): Promise<void> {
    const life = lives.get(run);
    if (life?.kind !== "running") throw new OperationError("bad_request", `run ${run} does not run`);
    const { names, record } = life.sandbox;
    try {
      cgroups.limit(names.cgroup, admitted(config.runs, asked));
      // A spare has been behind the others.
      cgroups.setPriority(names.cgroup, "tenant");
      await networks.openLanes(run, direct);
    } catch (error) {
      // Which passes by itself.
      if (error instanceof OperationError && error.code === "unavailable") throw error;
      throw new StepError(`admitting ${run}`, error);
    }
    if (lives.get(run) !== life) throw new OperationError("bad_request", `run ${run} is over`);
    const seconds = Math.min(config.runs.timeout_s + RUN_GRACE_S, asked.timeout_s);
    // A second admission, after a restart of api, moves nothing.
    const deadline = record.deadline ?? uptimeMs() + seconds * 1000;
    const sandbox = { ...life.sandbox, record: { ...record, deadline } };
    writeRecord(names, sandbox.record);
    enterRunning(run, sandbox);
  }

  /** With its wall clock, or until then the one of all that wait to be admitted, which goes on over a restart as well. */
  function enterRunning(run: RunId, sandbox: RunSandbox): void {
    const before = lives.get(run);
    if (before?.kind === "running" && before.clock !== null) clearTimeout(before.clock);
    const { deadline, process } = sandbox.record;
    const until = deadline ?? process.startTime * TICK_MS + unadmittedMs;
    const left = Math.max(0, until - uptimeMs());
    // A container's uptime may be its own, and be long behind the kernel's time, of which a start is told.
    const waits = deadline === null ? Math.min(left, unadmittedMs) : left;
    const clock = setTimeout(() => void end(run, "timeout"), waits);
    clock.unref();
    lives.set(run, { kind: "running", sandbox, clock });
  }

  /** Ends a run that runs; null: it did so itself. Resolves when its fate is known; never rejects. */
  function end(run: RunId, why: "stopped" | "timeout" | null): Promise<void> {
    const life = lives.get(run);
    if (life?.kind === "ending") return life.known;
    if (life?.kind !== "running") return Promise.resolve();
    if (life.clock !== null) clearTimeout(life.clock);
    const known = finish(run, life.sandbox, why);
    lives.set(run, { kind: "ending", known });
    return known;
  }

  async function finish(run: RunId, sandbox: RunSandbox, why: "stopped" | "timeout" | null): Promise<void> {
    const fate = await settle(run, sandbox, why);
    const dead = Promise.withResolvers<void>();
    const removed = tryToRemove(run, dead.resolve);
    // Nothing writes into its worktree any more.
    await dead.promise;
    enterEnded(run, fate, removed);
  }

  async function settle(
    run: RunId,
    sandbox: RunSandbox,
    why: "stopped" | "timeout" | null,
  ): Promise<RunFate> {
    const { names } = sandbox;
    const record = { ...sandbox.record, ending: why ?? sandbox.record.ending };
    try {
      if (why !== null) writeRecord(names, record);
      await killSandbox(cgroups, sandbox);
      const [how, dropped] = await Promise.all([fateOf(cgroups, { names, record }), droppedOf(run)]);
      const fate = { ...how, dropped };
      // Before anything is removed: a sandboxd that is killed in between finds it, and removes the rest.
      writeFate(names, fate);
      return fate;
    } catch (error) {
      const fault = explain(error);
      log.error("what became of a run is not known", { run, error: fault });
      const ended_at = Date.now();
      return { exit_code: null, cause: "lost", fault, ended_at, peak_memory_bytes: null, cpu_ms: null };
    }
  }

  async function droppedOf(run: RunId): Promise<NonNullable<RunFate["dropped"]>> {
    try {
      return await networks.drops(run);
    } catch (error) {
      log.warn("what a run's filter dropped is not known", { run, error: explain(error) });
      return [];
    }
  }

  async function tryToRemove(run: RunId, onDead?: () => void): Promise<boolean> {
    try {
      await removeSandbox(options, runNames(instance, run), onDead);
      return true;
    } catch (error) {
      log.error("a run is not wholly removed", { run, error: explain(error) });
      return false;
    }
  }

  function enterEnded(run: RunId, fate: RunFate, removed: Promise<boolean>): void {
    lives.set(run, { kind: "ended", fate, removed });
    log.info("a run is over", { run, cause: fate.cause, exit: fate.exit_code, fault: fate.fault });
    for (const wake of waiting) wake();
  }

  async function stop(run: RunId): Promise<void> {
    await end(run, "stopped");
    const life = lives.get(run);
    if (life?.kind === "ended" && !(await life.removed))
      throw new Error(`run ${run} is over, but not wholly removed`);
  }

  /** What the next sandboxd is to find of it is its fate; of one in which nothing has begun, a spare say, nothing. */
  async function endForGood(run: RunId): Promise<void> {
    const life = lives.get(run);
    await stop(run);
    if (life?.kind === "running" && life.sandbox.record.deadline === null) await forget(run);
  }

  async function forget(run: RunId): Promise<void> {
    const life = lives.get(run);
    if (life === undefined) return;
    if (life.kind !== "ended") throw new OperationError("bad_request", `run ${run} is not over`);
    const names = runNames(instance, run);
    const shim = readRecord(names)?.process;
    if (shim !== undefined) await endSession(shim);
    await ((await life.removed) ? removeTraces(names) : removeRun(options, names));
    lives.delete(run);
  }

  // ---- all of them ----

  /** Notices ends. */
  function look(): void {
    for (const [run, life] of lives) if (life.kind === "running" && isOver(life.sandbox)) void end(run, null);
  }

  async function adoptAll(): Promise<void> {
    for (const run of runsOnHost(instance, cgroups)) {
      try {
        await adopt(run);
      } catch (error) {
        log.error("remains of a run can't be settled", { run, error: explain(error) });
      }
    }
  }

  /** A run that lives and is whole goes on; one that has ended meanwhile is ended; all else is removed. */
  async function adopt(run: RunId): Promise<void> {
    const names = runNames(instance, run);
    const fate = readFate(names);
    if (fate !== undefined) return enterEnded(run, fate, tryToRemove(run));
    const record = readRecord(names);
    const sandbox = record === undefined ? undefined : { names, record };
    // One that was admitted has run, whatever runsc's state says while it is just ending: its shim will tell.
    const hasRun = () => record?.deadline != null || readState(names.runscState)?.status === "running";
    if (sandbox === undefined || (!isOver(sandbox) && !hasRun())) {
      log.info("a run that had not started is removed", { run });
      return await removeRun(options, names);
    }
    lives.set(run, { kind: "running", sandbox, clock: null });
    if (isOver(sandbox) || sandbox.record.ending !== null) return await end(run, sandbox.record.ending);
    enterRunning(run, sandbox);
    log.info("a run from before the start goes on", { run });
  }

  /** Removes what the host shows of runs that are not here, and what could not be removed before. */
  async function reconcile(): Promise<void> {
    for (const run of runsOnHost(instance, cgroups)) {
      try {
        await lanes.run(run, () => reconcileRun(run));
      } catch (error) {
        log.error("remains of a run can't be removed", { run, error: explain(error) });
      }
    }
    if (lives.size > 0 || networks.isLeft()) await reconcileNetworks();
  }

  async function reconcileRun(run: RunId): Promise<void> {
    const life = lives.get(run);
    if (life === undefined) {
      log.warn("remains of a run are removed", { run });
      await removeRun(options, runNames(instance, run));
    }
    if (life?.kind === "ended" && !(await life.removed))
      lives.set(run, { ...life, removed: tryToRemove(run) });
  }

  /** A host that lacks what a network needs may do without runs. */
  async function reconcileNetworks(): Promise<void> {
    try {
      await networks.reconcile((run) => lives.has(run));
    } catch (error) {
      log.warn("runs' networks can't be looked after", { error: explain(error) });
    }
  }

  function ended(): RunId[] {
    return [...lives].filter(([, life]) => life.kind === "ended").map(([run]) => run);
  }

  async function awaitEnds(timeoutMs: number): Promise<RunId[]> {
    if (ended().length > 0) return ended();
    const first = Promise.withResolvers<void>();
    const late = setTimeout(first.resolve, timeoutMs);
    waiting.add(first.resolve);
    try {
      await first.promise;
    } finally {
      clearTimeout(late);
      waiting.delete(first.resolve);
    }
    return ended();
  }

  async function inspect(run: RunId): Promise<RunState> {
    const life = lives.get(run);
    if (life === undefined) return { state: "unknown" };
    if (life.kind === "ending") {
      await life.known;
      return await inspect(run);
    }
    if (life.kind === "ended") return { state: "ended", fate: life.fate };
    if (life.kind === "starting") return { state: "starting" };
    return { state: "running", network: life.sandbox.record.network };
  }

  return {
    start: (run: RunId, spare = false) => lanes.run(run, () => start(run, spare)),
    admit: (args: OperationArgs<"admitRun">) => lanes.run(args.run, () => admit(args)),
    stop: (run: RunId) => lanes.run(run, () => stop(run)),
    forget: (run: RunId) => lanes.run(run, () => forget(run)),
    inspect,
    awaitEnds,
    reconcile,
    list: () =>
      [...lives].map(([run, { kind }]) => ({ run, state: kind === "ending" ? ("running" as const) : kind })),

    /** "end" ends every run; the fate of one that was admitted is found by the sandboxd that comes next. */
    async close(runs: "keep" | "end"): Promise<void> {
      state.closing = true;
      watcher.close();
      clearInterval(looks);
      clearInterval(reconciles);
      clearInterval(watches);
      // In turn with what is under way: one that is being booted is booted first, and then ended or kept.
      const settle = runs === "end" ? endForGood : async () => {};
      const left = await Promise.allSettled(
        [...lives.keys()].map((run) => lanes.run(run, () => settle(run))),
      );
      for (const result of left)
        if (result.status === "rejected") log.error("a run was not ended", { error: explain(result.reason) });
      await Promise.all(
        [...lives.values()].map(async (life) => life.kind === "ending" && (await life.known)),
      );
      await Promise.all(
        [...lives.values()].map(async (life) => life.kind === "ended" && (await life.removed)),
      );
      for (const life of lives.values())
        if (life.kind === "running" && life.clock !== null) clearTimeout(life.clock);
      for (const wake of waiting) wake();
    },
  };
}

function answerOf({ record, took }: RunSandbox): OperationResult<"startRun"> {
  const { network, made_of } = record;
  return { network, made_of, ...(took !== undefined && { took }) };
}

/** Not the time of day, which may be set. */
function uptimeMs(): number {
  return Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]) * 1000;
}
