import { setImmediate } from "node:timers/promises";
import type { EventFilter, EventReader, Span } from "../audit/reader.ts";
import { cursorOf } from "./event-query.ts";

/** Read at once: a body can have some 30 KiB, and nothing else is done meanwhile. */
const SLICE = 50;
/** A longer page is written as its client takes it. */
const WHOLE_CHARS = 512 * 1024;

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
  let { before } = span;
  let separator = "";
  yield '{"events":[';
  for (let left = limit; ;) {
    const wanted = Math.min(left, SLICE);
    // One more than is shown tells whether there is another page.
    const rows = await reader.newest(filter, { ...span, before }, wanted + 1);
    const shown = rows.slice(0, wanted);
    if (shown.length > 0) yield separator + shown.map(({ body }) => body).join(",");
    before = shown.at(-1)?.createdAt ?? before;
    left -= shown.length;
    const more = rows.length > wanted;
    if (left === 0 || !more)
      return yield `],"next_cursor":${more ? `"${cursorOf(filter, before)}"` : "null"}}`;
    separator = ",";
    await setImmediate();
  }
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
