import { AppError } from "../errors.ts";

interface Answer {
  readonly bytes: number;
  readonly cut: () => void;
}

/** Long answers, written piece by piece as their clients take them. */
export interface Outgoing {
  /** `bytes` is what the pieces keep in memory until the last of them is taken. */
  stream(pieces: Iterator<string>, bytes: number): ReadableStream<Uint8Array>;
  readonly bytes: number;
}

/**
 * Bounds what clients that read slowly, or not at all, keep in memory together: over it, the oldest answers are cut off.
 * One that is read as fast as it is written is gone long before it could be the oldest.
 */
export function createOutgoing(maxBytes: number): Outgoing {
  /** Oldest first. */
  const live = new Set<Answer>();
  let total = 0;

  function forget(answer: Answer): void {
    if (live.delete(answer)) total -= answer.bytes;
  }

  function remember(answer: Answer): void {
    live.add(answer);
    total += answer.bytes;
    for (const oldest of live) {
      if (total <= maxBytes || oldest === answer) return;
      forget(oldest);
      oldest.cut();
    }
  }

  return {
    stream(pieces, bytes) {
      const encoder = new TextEncoder();
      // Its pieces hold the output: letting go of them is what frees the memory.
      let rest: Iterator<string> | undefined = pieces;
      let answer: Answer;
      const end = (): void => {
        rest = undefined;
        forget(answer);
      };
      return new ReadableStream(
        {
          start(controller) {
            const cut = (): void => {
              rest = undefined;
              controller.error(
                new AppError("unavailable", "The answer was not read in time and was cut off."),
              );
            };
            answer = { bytes, cut };
            remember(answer);
          },
          pull(controller) {
            const next = rest?.next();
            if (next === undefined) return;
            if (next.done !== true) return controller.enqueue(encoder.encode(next.value));
            controller.close();
            end();
          },
          cancel: end,
        },
        { highWaterMark: 0 },
      );
    },
    get bytes() {
      return total;
    },
  };
}
