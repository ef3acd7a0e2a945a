import { existsSync, writeFileSync } from "node:fs";
import type { RunId } from "../ids.ts";
import { AppError, codeOf } from "../errors.ts";
import type { Instance } from "../instance/instance.ts";
import { openFifo, writeWhole } from "../kernel/fifo.ts";
import { closeFd } from "../kernel/openat2.ts";
import {
  encodeData,
  encodeFrame,
  encodeLaunch,
  FrameType,
  MAX_DATA_BYTES,
  MAX_PAYLOAD_BYTES,
  type Launch,
} from "../protocol/launch.ts";
import { createPlaces } from "./output/place.ts";

/** Between looks at a FIFO that was full. */
const FIRST_PAUSE_MS = 1;
const LONGEST_PAUSE_MS = 20;
/** The init reads its launch at once. */
const LAUNCH_PATIENCE_MS = 20_000;
/** How long one call waits for a command that does not read. */
const PATIENCE_MS = 10_000;
/** Calls that wait for one run's stdin, behind the one that is being written. */
const MAX_WAITING = 16;

interface Open {
  readonly fd: number;
  /** The last of the calls that write, each of which waits for the one before. */
  last: Promise<unknown>;
  waiting: number;
  /** Signals that wait for room: what is written leaves it to them. */
  urgent: number;
}

/** Thrown with what was written before the command had read too little for too long. */
export class StdinFull extends AppError {
  /** Of the bytes given, those that will reach the command. */
  readonly written: number;

  constructor(written: number) {
    super(
      "unavailable",
      `The run does not read its stdin: the first ${written} bytes of this call are on their way, the rest was not taken. Send the rest later.`,
      { retryAfterS: 5 },
    );
    this.written = written;
  }
}

export interface RunInputParts {
  readonly instance: Pick<Instance, "api" | "sockets">;
  /** For tests. */
  readonly patienceMs?: number;
}

export type RunInput = ReturnType<typeof createRunInput>;

/**
 * What is said to the first process of a run's sandbox, by its FIFO `in`: frames that the kernel keeps whole. When
 * there is no room whoever writes waits; the calls of one run have their turns in order, so that their bytes don't mix.
 */
export function createRunInput({ instance, patienceMs = PATIENCE_MS }: RunInputParts) {
  const places = createPlaces(instance);
  const opened = new Map<RunId, Open>();
  /** By this process: one that was launched before it is launched again, to which nothing comes. */
  const launched = new Set<RunId>();

  function open(run: RunId): Open {
    const known = opened.get(run);
    if (known !== undefined) return known;
    const fd = openFifo(places.fifo(run, "in"));
    if (fd === null) throw new AppError("conflict", "The run is over: nobody reads its stdin any more.");
    const made = { fd, last: Promise.resolve(), waiting: 0, urgent: 0 };
    opened.set(run, made);
    return made;
  }

  /** One after the other, each with all of its frames. */
  async function inTurn<T>(run: RunId, work: (its: Open) => Promise<T>): Promise<T> {
    const its = open(run);
    if (its.waiting >= MAX_WAITING) {
      throw new AppError("unavailable", "Too many calls write to this run's stdin; try again soon.", {
        retryAfterS: 5,
      });
    }
    its.waiting += 1;
    const turn = its.last.then(
      () => work(its),
      () => work(its),
    );
    its.last = turn.catch(() => {});
    try {
      return await turn;
    } finally {
      its.waiting -= 1;
    }
  }

  /** false when there was no room for it in all that time. */
  async function put(
    run: RunId,
    its: Open,
    frame: Uint8Array,
    { waitMs, urgent = false }: { readonly waitMs: number; readonly urgent?: boolean },
  ): Promise<boolean> {
    const deadline = performance.now() + waitMs;
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(LONGEST_PAUSE_MS, 2 * pause)) {
      // It may be over by now, and its descriptor's number somebody else's.
      if (opened.get(run) !== its) throw new AppError("conflict", "The run is over.");
      if ((urgent || its.urgent === 0) && writeWhole(its.fd, frame)) return true;
      if (performance.now() > deadline) return false;
      await Bun.sleep(pause);
    }
  }

  return {
    /**
     * Starts the command. May be said again after a crash: what was begun is begun anew, and of two starts the second is
     * passed over.
     */
    async launch(run: RunId, launch: Launch): Promise<void> {
      const block = encodeLaunch(launch);
      const frames = [encodeFrame(FrameType.reset)];
      for (const part of parts(block, MAX_PAYLOAD_BYTES)) frames.push(encodeFrame(FrameType.launch, part));
      frames.push(encodeFrame(FrameType.go));
      await inTurn(run, async (its) => {
        for (const frame of frames) {
          if (await put(run, its, frame, { waitMs: LAUNCH_PATIENCE_MS })) continue;
          throw new AppError("unavailable", "The sandbox does not take its command.");
        }
      });
      launched.add(run);
    },

    /** Whether what is written goes behind its launch: before that there is no command, and the init passes it over. */
    isLaunched: (run: RunId): boolean => launched.has(run),

    /**
     * For the command's stdin; resolves when the FIFO has all of it. `at`: where in its stdin that belongs, for what may
     * be sent again after a crash; null for what comes next. Throws StdinFull when it reads nothing for too long.
     */
    async write(run: RunId, bytes: Uint8Array, at: number | null = null): Promise<void> {
      await inTurn(run, async (its) => {
        // The init would pass over it, and nobody be told.
        if (at === null && existsSync(places.ended(run)))
          throw new AppError("conflict", "The run's stdin has had its end: nothing can follow it.");
        let written = 0;
        for (const part of parts(bytes, MAX_DATA_BYTES)) {
          const frame = encodeData(at === null ? null : at + written, part);
          if (!(await put(run, its, frame, { waitMs: patienceMs }))) throw new StdinFull(written);
          written += part.length;
        }
      });
    },

    /** Its end, behind what was written: so many bytes of the same call, as StdinFull tells them. May be said again. */
    async eof(run: RunId, written = 0): Promise<void> {
      await inTurn(run, async (its) => {
        if (!(await put(run, its, encodeFrame(FrameType.eof), { waitMs: patienceMs })))
          throw new StdinFull(written);
        try {
          writeFileSync(places.ended(run), "");
        } catch (error) {
          // The run is over already.
          if (codeOf(error) !== "ENOENT") throw error;
        }
      });
    },

    /**
     * For the command's process group. It does not wait for calls that write, but goes behind what the FIFO holds: a
     * command that reads nothing may not get it, so it is no means to end a run.
     */
    async signal(run: RunId, number: number): Promise<void> {
      const its = open(run);
      const frame = encodeFrame(FrameType.signal, Uint8Array.of(number));
      its.urgent += 1;
      try {
        if (!(await put(run, its, frame, { waitMs: patienceMs, urgent: true }))) throw new StdinFull(0);
      } finally {
        its.urgent -= 1;
      }
    },

    /** The run is over: calls that wait are answered with that. */
    close(run: RunId): void {
      launched.delete(run);
      const its = opened.get(run);
      if (its === undefined) return;
      opened.delete(run);
      closeFd(its.fd);
    },

    closeAll(): void {
      for (const { fd } of opened.values()) closeFd(fd);
      opened.clear();
    },
  };
}

function* parts(bytes: Uint8Array, most: number): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += most) yield bytes.subarray(at, at + most);
}
