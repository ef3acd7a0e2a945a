import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";

/** The fastest: it has to keep up with the store, and what is worth more can be packed anew. */
const LEVEL = 1;

export interface ArchiveStream {
  readonly body: ReadableStream<Uint8Array>;
  /** Settles when all of it was taken, or nobody takes any more; never rejects. */
  readonly done: Promise<void>;
}

/**
 * A tar archive, compressed as the client takes it: a client that takes nothing costs what is in a few buffers. Where
 * it fails on the way, or `signal` ends it, the connection breaks, so that no part is taken for the whole. `took` is
 * told of what the client has taken.
 */
export function gzipped(
  tar: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
  took: (bytes: number) => void = () => {},
): ArchiveStream {
  const gzip = createGzip({ level: LEVEL });
  const { promise: done, resolve } = Promise.withResolvers<void>();
  // The chunks' iterator fails with what the pipeline failed with.
  const pumping = pipeline(tar, gzip, { signal }).catch(() => {});
  const chunks: AsyncIterator<Uint8Array> = gzip[Symbol.asyncIterator]();
  const end = async (): Promise<void> => {
    signal.removeEventListener("abort", abort);
    gzip.destroy();
    await pumping;
    resolve();
  };
  // Also where nobody has begun to take it.
  const abort = () => void end();
  if (signal.aborted) abort();
  else signal.addEventListener("abort", abort, { once: true });
  const body = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const next = await chunks.next();
          if (next.done !== true) {
            took(next.value.length);
            return controller.enqueue(next.value);
          }
          controller.close();
        } catch (error) {
          controller.error(signal.aborted ? signal.reason : error);
        }
        await end();
      },
      cancel: end,
    },
    { highWaterMark: 0 },
  );
  return { body, done };
}
