import { rm } from "node:fs/promises";
import type { RunId } from "../../ids.ts";
import type { Instance } from "../../instance/instance.ts";
import { openFifo, setPipeSize } from "../../kernel/fifo.ts";
import { closeFd } from "../../kernel/openat2.ts";
import type { Log } from "../../log.ts";
import { createChanges, type Changes } from "./changes.ts";
import { follow, type FollowOptions, type Step } from "./follow.ts";
import { closedSegments, openRunLog, type RunLog } from "./log.ts";
import { createPlaces } from "./place.ts";
import { createPump, isFull } from "./pump.ts";
import { readAfter, type Batch } from "./read.ts";
import type { Stream } from "./segment.ts";

export interface RunOutputParts {
  readonly instance: Pick<Instance, "api" | "sockets">;
  /** Of one run's output; of more, the oldest goes. */
  readonly maxBytes: () => number;
  /** Runs at once: they share what the kernel grants one user for pipes. */
  readonly live: () => number;
  readonly log: Log;
  /** How long a reader hears nothing before it is told so. */
  readonly idleMs?: number;
}

/** Proxies cut what is silent for 30 to 60 s. */
const IDLE_MS = 15_000;
/** pipe(7): half of pipe-user-pages-soft, beyond which the kernel makes a user's pipes two pages long. */
const PIPES_BYTES = 32 * 1024 * 1024;
const LARGEST_PIPE = 1024 * 1024;
const SMALLEST_PIPE = 64 * 1024;
/** Longer than any pipe: who still writes to it after its run's end is not heard to the last. */
const MOST_LEFT = 4 * LARGEST_PIPE;
/** On a disk that stays full. */
const PATIENCE_MS = 10_000;
const RETRY_MS = 250;

interface Attached {
  readonly log: RunLog;
  /** By what is written to them; none once they are drained. */
  readonly pipes: Map<"stdout" | "stderr", number>;
  full: boolean;
  /** When the first of its output came; null before, and for a run that an api before this one has begun. */
  firstAt: number | null;
  begun: boolean;
  draining: Promise<void> | null;
}

export type RunOutput = ReturnType<typeof createRunOutput>;

/**
 * What runs write. Each has two FIFOs, which sandboxd gives to its sandbox and which keep what is in them while api is
 * away; from there it goes to files that are followed by any number of readers, none of whom holds up the run or another.
 */
export function createRunOutput({ instance, maxBytes, live, log, idleMs = IDLE_MS }: RunOutputParts) {
  const places = createPlaces(instance);
  const pump = createPump(log);
  const attached = new Map<RunId, Attached>();
  /** Of runs that somebody reads. */
  const read = new Map<RunId, { readonly changes: Changes; readers: number }>();

  const tell = (run: RunId): void => read.get(run)?.changes.tell();

  function open(run: RunId): Attached {
    const known = attached.get(run);
    if (known !== undefined) return known;
    const made = {
      log: openRunLog(places.output(run), maxBytes()),
      pipes: new Map(),
      full: false,
      firstAt: null,
      begun: false,
      draining: null,
    };
    attached.set(run, made);
    return made;
  }

  function take(run: RunId, its: Attached, stream: Stream, pipe: number): number {
    const moved = takeOrShrink(its.log, stream, pipe);
    if (moved > 0) {
      its.full = false;
      if (its.begun) its.firstAt ??= Date.now();
      tell(run);
    }
    return moved;
  }

  /** The run waits meanwhile, and what is in its pipes stays there. */
  function failed(run: RunId, its: Attached, error: unknown): void {
    if (!its.full) log.error("output of a run cannot be stored; it waits", { run, cause: error });
    its.full = true;
  }

  function detach(its: Attached): void {
    for (const pipe of its.pipes.values()) {
      pump.remove(pipe);
      closeFd(pipe);
    }
    its.pipes.clear();
  }

  /** From now on what it writes is stored. After a restart too: what came meanwhile is in the FIFOs. */
  function attach(run: RunId): void {
    const its = open(run);
    const size = pipeBytes(live());
    for (const [stream, name] of [
      ["stdout", "out"],
      ["stderr", "err"],
    ] as const) {
      if (its.pipes.has(stream)) continue;
      const fd = openFifo(places.fifo(run, name));
      if (fd === null) continue;
      setPipeSize(fd, size);
      its.pipes.set(stream, fd);
      pump.add({
        fd,
        take: () => take(run, its, stream, fd),
        failed: (error) => failed(run, its, error),
      });
    }
  }

  async function drain(run: RunId, its: Attached): Promise<void> {
    const deadline = Date.now() + PATIENCE_MS;
    for (const [stream, pipe] of its.pipes) {
      pump.remove(pipe);
      let left = MOST_LEFT;
      while (left > 0) {
        try {
          const moved = take(run, its, stream, pipe);
          if (moved === 0) break;
          left -= moved;
        } catch (error) {
          failed(run, its, error);
          if (Date.now() > deadline) {
            log.error("the end of a run's output is lost", { run, stream, cause: error });
            break;
          }
          await Bun.sleep(RETRY_MS);
        }
      }
    }
    detach(its);
    its.log.end(Date.now());
    places.removeFifos(run);
    tell(run);
  }

  /** Nothing more comes: its readers end. Call it when the run's row says that it is over; twice does no harm. */
  function finish(run: RunId): void {
    const its = attached.get(run);
    if (its !== undefined) {
      detach(its);
      its.log.close();
    }
    attached.delete(run);
    places.removeFifos(run);
    tell(run);
    read.delete(run);
  }

  /** At one entry. */
  async function look(run: RunId, after: number): Promise<Batch | null> {
    const dir = places.output(run);
    return readAfter(dir, attached.get(run)?.log.segments() ?? closedSegments(dir), after, 0);
  }

  return {
    /** The files and FIFOs of a run that begins. What there is already stays. */
    prepare(run: RunId): void {
      places.makeFifos(run);
      open(run).begun = true;
    },

    /** When the first of its output came, in milliseconds since 1970; null when nobody here knows. */
    firstAt: (run: RunId): number | null => attached.get(run)?.firstAt ?? null,

    attach,

    /** Once nothing can write to its FIFOs any more: stores what is left in them, and takes them away. */
    async drained(run: RunId): Promise<void> {
      attach(run);
      const its = open(run);
      its.draining ??= drain(run, its).finally(() => void (its.draining = null));
      await its.draining;
    },

    /** A line in the log, for people. */
    status(run: RunId, text: string): void {
      open(run).log.say(text, Date.now());
      tell(run);
    },

    finish,

    /**
     * Its output, in order, as it comes. `isOver` says whether its row does, and is asked before waiting: with a run that
     * has not begun it waits.
     */
    async *follow(
      run: RunId,
      options: Omit<FollowOptions, "idleMs">,
      isOver: () => boolean | Promise<boolean>,
      signal: AbortSignal,
    ): AsyncGenerator<Step, void> {
      const its = read.get(run) ?? { changes: createChanges(), readers: 0 };
      read.set(run, its);
      its.readers += 1;
      // finish() and close() have taken it from the table.
      const isFinished = () => read.get(run) !== its;
      const source = {
        dir: places.output(run),
        log: () => attached.get(run)?.log ?? null,
        ...its.changes,
        isOver: async () => isFinished() || (await isOver()),
      };
      try {
        yield* follow(source, { ...options, idleMs }, signal);
      } finally {
        its.readers -= 1;
        if (its.readers === 0 && !isFinished()) read.delete(run);
      }
    },

    /** How much of its output is not kept any more. */
    dropped: async (run: RunId): Promise<number> => (await look(run, 0))?.gap?.bytes ?? 0,

    /** Whether it has an entry after that one by now. */
    hasMore: async (run: RunId, after: number): Promise<boolean> => {
      const batch = await look(run, after);
      return batch === null || batch.entries.length > 0;
    },

    /** All that is left of it. */
    async remove(run: RunId): Promise<void> {
      finish(run);
      await rm(places.output(run), { recursive: true, force: true });
    },

    /** Runs go on; what they write waits in their FIFOs. */
    close(): void {
      for (const its of attached.values()) {
        detach(its);
        its.log.close();
      }
      attached.clear();
      pump.close();
      const left = [...read.values()];
      read.clear();
      for (const { changes } of left) changes.tell();
    },
  };
}

/** On a full disk older output of the same run makes room for newer. */
function takeOrShrink(log: RunLog, stream: Stream, pipe: number): number {
  for (;;) {
    try {
      return log.take(stream, pipe, Date.now());
    } catch (error) {
      if (!isFull(error) || !log.shrink()) throw error;
    }
  }
}

/** As large as all of them together may be: whoever writes has that much room while api is away. */
function pipeBytes(live: number): number {
  const share = 2 ** Math.floor(Math.log2(PIPES_BYTES / (2 * live)));
  return Math.min(LARGEST_PIPE, Math.max(SMALLEST_PIPE, share));
}
