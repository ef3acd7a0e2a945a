import type { EventFilter, EventReader, Span } from "../../audit/reader.ts";
import { cursorOf } from "./query.ts";

/** A longer page is written as its client takes it. */
const WHOLE_CHARS = 1024 * 1024;

/** The page as JSON. Bodies are JSON already. */
export async function eventPage(
  reader: Pick<EventReader, "newest">,
  filter: EventFilter,
  span: Span,
  limit: number,
  signal: AbortSignal,
): Promise<{ response: Response; done: Promise<void> }> {
  const pieces = piecesOf(reader, filter, span, limit);
  let start = "";
  while (start.length <= WHOLE_CHARS) {
    const next = await pieces.next();
    if (next.done === true) return { response: jsonOf(start), done: Promise.resolve() };
    start += next.value;
  }
  const { body, done } = streamOf(start, pieces, signal);
  return { response: jsonOf(body), done };
}

async function* piecesOf(
  reader: Pick<EventReader, "newest">,
  filter: EventFilter,
  span: Span,
  limit: number,
): AsyncGenerator<string, void> {
  let separator = "";
  let cursor = null;
  yield '{"events":[';
  for await (const { rows, more } of reader.newest(filter, span, limit)) {
    if (rows.length > 0) yield separator + rows.map(({ body }) => body).join(",");
    separator = ",";
    const last = rows.at(-1);
    cursor = more && last !== undefined ? cursorOf(filter, last.createdAt) : null;
  }
  yield `],"next_cursor":${JSON.stringify(cursor)}}`;
}

function streamOf(start: string, pieces: AsyncGenerator<string, void>, signal: AbortSignal) {
  const { promise: done, resolve } = Promise.withResolvers<void>();
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>(
    {
      start(controller) {
        controller.enqueue(encoder.encode(start));
        signal.addEventListener("abort", () => {
          controller.error(signal.reason);
          resolve();
        });
      },
      async pull(controller) {
        try {
          const next = await pieces.next();
          if (signal.aborted) return;
          if (next.done !== true) return controller.enqueue(encoder.encode(next.value));
          controller.close();
        } catch (error) {
          controller.error(error);
        }
        resolve();
      },
      cancel: () => resolve(),
    },
    { highWaterMark: 0 },
  );
  return { body, done };
}

function jsonOf(body: string | ReadableStream<Uint8Array>): Response {
  return new Response(body, { headers: { "content-type": "application/json", "cache-control": "no-store" } });
}
