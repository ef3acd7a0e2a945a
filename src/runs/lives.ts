import { AppError } from "../errors.ts";
import { APPLIANCE, type Origin } from "../audit/event.ts";
import { unchanged } from "../audit/ledger.ts";
import type { RunId } from "../ids.ts";
import { RUN_GRACE_S } from "../protocol/sandboxd.ts";
import type { createFinish } from "./finish.ts";
import { lifeOf, phaseOf, type Life } from "./life.ts";
import type { Outcome } from "./outcome.ts";
import type { LifeParts } from "./parts.ts";
import { patiently, pauseFor } from "./patience.ts";
import { sentenceOf, type createPreparation } from "./prepare.ts";
import type { RunQueue } from "./queue.ts";
import { fateOf, isOver, limitsOf, stopOf, type Run, type RunStop } from "./run.ts";

export interface LivesParts extends LifeParts {
  readonly preparation: ReturnType<typeof createPreparation>;
  readonly finish: ReturnType<typeof createFinish>;
  readonly queue: Pick<RunQueue, "leave">;
  /** Aborted when api stops: what is under way is left to the next. */
  readonly closing: AbortController;
}

const SIGTERM = 15;
const MIB = 1024 * 1024;
const FOREVER_MS = 2 ** 40;
const RETRY_MS = 5_000;

export type Lives = ReturnType<typeof createLives>;

/**
 * Drives each run from where its row is to where nothing is left to be done: a new one and one that an api before this
 * has left behind alike. Nothing but the rows says how far a run is, so that whoever is killed, the next goes on there.
 */
export function createLives(parts: LivesParts) {
  const { rows, ledger, sandboxd, input, preparation, finish, queue, closing, log } = parts;
  const lives = new Map<RunId, Life>();

  async function fetch(id: RunId): Promise<Run> {
    const run = await rows.find(id);
    if (run === null) throw new AppError("not_found", `${id} is no more; its namespace was deleted.`);
    return run;
  }

  async function drive(life: Life): Promise<void> {
    const run = await fetch(life.id);
    if (life.phase !== "settling") await toItsEnd(life, run);
    closing.signal.throwIfAborted();
    // A call may have opened it since, as long as there was something to be opened.
    input.close(life.id);
    life.phase = "settling";
    life.over.resolve();
    queue.leave(life.workspaceId, life.id);
    // The row may have gone with its namespace by now; the roles have something of it still.
    await finish.settle((await rows.find(life.id)) ?? run, closing.signal);
  }

  async function toItsEnd(life: Life, run: Run): Promise<void> {
    const begins = run.fate === null && run.status !== "running";
    if (begins && !(await begin(life, run))) return;
    await untilEnded(life);
    life.phase = "ending";
    input.close(life.id);
    await finish.finish(await fetch(life.id), closing.signal);
  }

  /** false when it did not come to that, and is over. */
  async function begin(life: Life, run: Run): Promise<boolean> {
    const signal = AbortSignal.any([life.stopping.signal, closing.signal]);
    try {
      if (stopOf(run) !== null) life.stopping.abort();
      const running = await preparation.prepare(run, signal);
      life.launched = true;
      startClock(life, running);
      return true;
    } catch (error) {
      closing.signal.throwIfAborted();
      const now = await fetch(life.id);
      const stop = stopOf(now);
      if (stop === null) log.warn("a run could not begin", { run: life.id, cause: error });
      if (now.status !== "queued") {
        await preparation
          .undo(now, closing.signal)
          .catch((cause: unknown) => log.warn("a sandbox is left to be removed", { run: life.id, cause }));
      }
      await finish.abandon(now, stop === null ? failed(error) : { ...stop, exitCode: null });
      return false;
    }
  }

  function startClock(life: Life, run: Run): void {
    life.phase = "running";
    const left = (run.deadline ?? 0) - Date.now();
    const timer = setTimeout(() => void signalIt(life, SIGTERM), Math.max(0, left));
    const stop = (): void => void terminate(life);
    const unwatch = parts.disk.watch(life.id, limitsOf(run).disk_mb * MIB, (error) => {
      void requestStop(life.id, { status: "failed", error }, { origin: APPLIANCE });
    });
    if (life.stopping.signal.aborted) stop();
    else life.stopping.signal.addEventListener("abort", stop, { once: true });
    void life.ended.promise.finally(() => {
      clearTimeout(timer);
      unwatch();
      life.stopping.signal.removeEventListener("abort", stop);
    });
  }

  async function untilEnded(life: Life): Promise<void> {
    const closed = Promise.withResolvers<void>();
    const onClose = (): void => closed.resolve();
    closing.signal.addEventListener("abort", onClose, { once: true });
    if (closing.signal.aborted) closed.resolve();
    await Promise.race([life.ended.promise, closed.promise]);
    closing.signal.removeEventListener("abort", onClose);
    closing.signal.throwIfAborted();
  }

  async function signalIt(life: Life, signal: number): Promise<void> {
    await input
      .signal(life.id, signal)
      .catch((cause: unknown) => log.warn("a run was not signalled", { run: life.id, signal, cause }));
  }

  /** It is asked to end; what does not by then is killed. */
  async function terminate(life: Life): Promise<void> {
    if (life.stopping.signal.reason !== AT_ONCE) {
      void signalIt(life, SIGTERM);
      await Promise.race([life.ended.promise, pauseFor(parts.graceMs ?? RUN_GRACE_S * 1000, closing.signal)]);
    }
    await kill(life);
  }

  async function kill(life: Life): Promise<void> {
    if (life.phase !== "running" || closing.signal.aborted) return;
    await patiently(() => sandboxd.call("stopRun", { run: life.id }), {
      forMs: FOREVER_MS,
      signal: closing.signal,
    }).catch((cause: unknown) => {
      if (!closing.signal.aborted) log.error("a run was not stopped", { run: life.id, cause });
    });
  }

  function start(life: Life): void {
    if (life.phase === "queued") life.phase = "preparing";
    void toTheLast(life);
  }

  /** Its row says how far it is: whatever went wrong, it goes on there, or the next start of api does. */
  async function toTheLast(life: Life): Promise<void> {
    for (;;) {
      try {
        await drive(life);
        break;
      } catch (cause) {
        if (closing.signal.aborted || (await isGone(life.id))) break;
        log.error("a run is left as it is for now", { run: life.id, cause });
      }
      await pauseFor(parts.retryMs ?? RETRY_MS, closing.signal);
      if (!(await takeUp(life))) break;
    }
    queue.leave(life.workspaceId, life.id);
    lives.delete(life.id);
    life.over.resolve();
    life.settled.resolve();
  }

  /** With its namespace. */
  const isGone = async (id: RunId): Promise<boolean> =>
    rows.find(id).then(
      (run) => run === null,
      () => false,
    );

  /** As a start of api does. false: there is nothing to go on with. */
  async function takeUp(life: Life): Promise<boolean> {
    try {
      const run = await rows.find(life.id);
      if (closing.signal.aborted || run === null) return false;
      const phase = phaseOf(run);
      // It has its place in the queue already.
      life.phase = phase === "queued" ? "preparing" : phase;
      // What it has begun with may be gone; then its end is seen as any other's.
      if (life.phase === "running" && !life.launched) startClock(life, run);
    } catch (cause) {
      log.error("a run's row was not read", { run: life.id, cause });
    }
    return true;
  }

  /**
   * Why it is stopped is durable when this resolves, and it is being stopped. One that is over, or being stopped
   * already, stays as it is.
   */
  async function requestStop(
    id: RunId,
    why: RunStop,
    { origin, atOnce = false }: StopOptions,
  ): Promise<void> {
    const stopped = await ledger.change(async () => {
      const run = await rows.find(id);
      if (run === null || isOver(run) || run.fate !== null || run.stop !== null) return unchanged(false);
      return {
        statements: [rows.updating(id, { stop: why })],
        events: [
          {
            chain: run.workspaceId,
            type: "run.stopped",
            namespace: run.namespace,
            data: { run_id: id, status: why.status, reason: why.error },
            origin,
          },
        ],
        result: true,
      };
    });
    const life = lives.get(id);
    if (life === undefined || !(stopped || atOnce)) return;
    // It may have been asked to end before, and have time to.
    if (atOnce && life.stopping.signal.aborted) return void kill(life);
    life.stopping.abort(atOnce ? AT_ONCE : undefined);
    // One that still waits for its turn needs none to end.
    if (life.phase === "queued") start(life);
  }

  return {
    all: () => lives.values(),
    get: (id: RunId) => lives.get(id),

    /** From here on it is known; it begins with `admit`. */
    add(run: Run): Life {
      const life = lifeOf(run);
      lives.set(run.id, life);
      return life;
    },

    /** The queue lets it live. */
    admit(id: RunId): void {
      const life = lives.get(id);
      if (life?.phase === "queued") start(life);
    },

    /** One that an earlier api has left, and that lives already. */
    resume(run: Run): void {
      const life = lifeOf(run);
      lives.set(run.id, life);
      const fate = fateOf(run);
      if (fate !== null) life.ended.resolve(fate);
      if (life.phase === "running") startClock(life, run);
      if (stopOf(run) !== null) life.stopping.abort();
      start(life);
    },

    /** Its sandbox is gone: kept in its row first, so that sandboxd may forget it. */
    async end(life: Life, fate: Awaited<Life["ended"]["promise"]>): Promise<void> {
      await rows.update(life.id, { fate });
      life.ended.resolve(fate);
    },

    stop: requestStop,

    /** Runs go on; what api does for them is left to the next. */
    async close(patienceMs: number): Promise<void> {
      const nearly = [...lives.values()].filter(({ phase }) => phase === "ending" || phase === "settling");
      const settled = Promise.all(nearly.map((life) => life.settled.promise));
      await Promise.race([settled, Bun.sleep(patienceMs)]);
      closing.abort(new AppError("unavailable", "The appliance is stopping.", { retryAfterS: 5 }));
    },

    closing: closing.signal,
  };
}

interface StopOptions {
  /** Who asked for it. */
  readonly origin: Origin;
  /** Without the time that it otherwise has to end by itself. */
  readonly atOnce?: boolean;
}

const AT_ONCE = Symbol("at once");

function failed(error: unknown): Outcome {
  return { status: "error", exitCode: null, error: sentenceOf(error) };
}
