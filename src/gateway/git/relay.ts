import type { ReportReader } from "./report.ts";

/** Passes a stream on at its reader's pace. `onEnd` is told once, also when the reader has gone. */
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
      } catch (error) {
        end();
        controller.error(error);
      }
    },
    async cancel(reason) {
      end();
      await reader.cancel(reason);
    },
  });
}

/**
 * Passes a server's answer to a push on, and reads it to its end even when nobody listens any more: what the server has
 * done is to be known. `settle` is called before the client learns that the server is done, so that it can't build on
 * what is not written down yet.
 */
export function relayReport(
  source: ReadableStream<Uint8Array>,
  report: ReportReader,
  settle: () => void,
  signal: AbortSignal,
): ReadableStream<Uint8Array> {
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
  const writer = writable.getWriter();
  const state = { listening: true };
  const stopListening = () => {
    state.listening = false;
  };
  writer.closed.catch(stopListening);
  // A client that does not read holds nobody up any longer.
  const abort = () => void writer.abort(signal.reason).catch(stopListening);
  signal.addEventListener("abort", abort);

  async function pass(): Promise<void> {
    try {
      for await (const chunk of source) {
        report.add(chunk);
        if (report.complete()) settle();
        if (state.listening) await writer.write(chunk).catch(stopListening);
      }
      settle();
      await writer.close().catch(stopListening);
    } catch (error) {
      settle();
      await writer.abort(error).catch(stopListening);
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }
  void pass();
  return readable;
}

/** Of a stream's reader, what is used of it here. */
export interface Reader {
  read(): Promise<{ readonly done: boolean; readonly value?: Uint8Array | undefined }>;
  cancel(reason?: unknown): Promise<void>;
}

/** The rest of a body, after some of it was read: at its reader's pace, and nothing before it asks. */
export function continued(
  head: readonly Uint8Array[],
  reader: Reader,
  onBytes: (count: number) => void,
): ReadableStream<Uint8Array> {
  const waiting = head.filter((chunk) => chunk.length > 0);
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const chunk = waiting.shift() ?? (await reader.read()).value;
        if (chunk === undefined) {
          controller.close();
          return;
        }
        onBytes(chunk.length);
        controller.enqueue(chunk);
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  );
}
