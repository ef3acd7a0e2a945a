import type { ReportReader } from "./report.ts";

/**
 * Passes a stream on at its reader's pace. `onEnd` is told once, also when the reader has gone. One that breaks off just
 * ends: all that git reads says itself where it is whole, and a response that fails Bun would print.
 */
export function watched(
  source: ReadableStream<Uint8Array>,
  onChunk: (chunk: Uint8Array) => void,
  onEnd: () => void,
): ReadableStream<Uint8Array> {
  const reader = source.getReader();
  const state = { over: false };
  const end = () => {
    if (!state.over) onEnd();
    state.over = true;
  };
  return new ReadableStream({
    async pull(controller) {
      try {
        const { done, value } = await reader.read();
        if (done) {
          end();
          controller.close();
          return;
        }
        onChunk(value);
        controller.enqueue(value);
      } catch {
        end();
        controller.close();
      }
    },
    async cancel(reason) {
      end();
      await reader.cancel(reason);
    },
  });
}

/**
 * Passes a server's answer to a push on, and reads it to its end even when its client has left: what the server has done is
 * to be known. `settle` is called before the client learns that the server is done, so that it can't build on what is not
 * written down yet; at the latest when `signal` is aborted, however slowly a client reads.
 */
export function relayReport(
  source: ReadableStream<Uint8Array>,
  report: ReportReader,
  settle: () => void,
  signal: AbortSignal,
): ReadableStream<Uint8Array> {
  const reader = source.getReader();
  signal.addEventListener("abort", settle);

  async function next(): Promise<Uint8Array | null> {
    const { done, value } = await reader.read().catch(() => ({ done: true, value: undefined }));
    if (done || value === undefined) {
      signal.removeEventListener("abort", settle);
      settle();
      return null;
    }
    report.add(value);
    if (report.complete()) settle();
    return value;
  }

  async function readOn(): Promise<void> {
    while ((await next()) !== null);
  }

  return new ReadableStream({
    async pull(controller) {
      const chunk = await next();
      if (chunk === null) controller.close();
      else controller.enqueue(chunk);
    },
    cancel() {
      void readOn();
    },
  });
}

/** Of a stream's reader, what is used of it here. */
export interface Reader {
  read(): Promise<{ readonly done: boolean; readonly value?: Uint8Array | undefined }>;
  cancel(reason?: unknown): Promise<void>;
}

export interface BodyParts {
  /** What was read of it already. */
  readonly head: readonly Uint8Array[];
  /** Whence the rest comes; null: there is no rest. */
  readonly reader: Reader | null;
}

/** A body as it comes, at its reader's pace: nothing is taken before it asks, and `onBytes` is told of what it gets. */
export function continued(
  { head, reader }: BodyParts,
  onBytes: (count: number) => void,
): ReadableStream<Uint8Array> {
  const waiting = head.filter((chunk) => chunk.length > 0);
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const chunk = waiting.shift() ?? (await reader?.read())?.value;
        if (chunk === undefined) {
          controller.close();
          return;
        }
        onBytes(chunk.length);
        controller.enqueue(chunk);
      },
      cancel: (reason) => reader?.cancel(reason),
    },
    { highWaterMark: 0 },
  );
}
