import { AppError } from "../../errors.ts";

interface Answer {
  readonly owner: string;
  readonly bytes: number;
  readonly cut: () => void;
}

/** One owner's long answers, written piece by piece as their clients take them. */
export interface Outgoing {
  /** `bytes` is what the pieces keep in memory until the last of them is taken. */
  stream(pieces: Iterator<string>, bytes: number): ReadableStream<Uint8Array>;
}

/**
 * Bounds what clients that read slowly, or not at all, keep in memory together: over it, the oldest answer of the owner
 * that has the most is cut off, so that nobody's are cut because of another's.
 */
export function createOutgoing(maxBytes: number) {
  /** Oldest first. */
  const live = new Set<Answer>();
  const owned = new Map<string, number>();
  let total = 0;

  function count({ owner, bytes }: Answer, sign: 1 | -1): void {
    total += sign * bytes;
    const now = (owned.get(owner) ?? 0) + sign * bytes;
    if (now === 0) owned.delete(owner);
    else owned.set(owner, now);
  }

  function forget(answer: Answer): void {
    if (live.delete(answer)) count(answer, -1);
  }

  /** Never `fresh` itself, which is smaller than the bound. */
  function oldestOfMost(fresh: Answer): Answer | undefined {
    const byBytes = [...owned].toSorted(([, a], [, b]) => b - a);
    for (const [owner] of byBytes) {
      const oldest = live.values().find((answer) => answer.owner === owner && answer !== fresh);
      if (oldest !== undefined) return oldest;
    }
    return undefined;
  }

  function remember(answer: Answer): void {
    live.add(answer);
    count(answer, 1);
    const isOver = () => total > maxBytes;
    while (isOver()) {
      const oldest = oldestOfMost(answer);
      if (oldest === undefined) return;
      forget(oldest);
      oldest.cut();
    }
  }

  const of = (owner: string): Outgoing => ({
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
            answer = { owner, bytes, cut };
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
  });

  return {
    of,
    get bytes() {
      return total;
    },
  };
}
