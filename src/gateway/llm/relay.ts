import type { Share } from "../space.ts";
import { createEventSplitter, type ServerEvent } from "./events.ts";
import type { Told, UsageReader } from "./usage.ts";

export interface Relayed {
  readonly answer: Response;
  /** Of server-sent events. */
  readonly isStream: boolean;
  readonly usage: UsageReader;
  /** The event that only we asked for. */
  readonly isExtra: ((data: unknown) => boolean) | null;
  readonly idleMs: number;
  /** Ends the provider's side. */
  readonly abort: AbortController;
  /**
   * Once, as soon as the answer's cost is known: before the caller has what tells it that the answer is over, so that its next
   * request finds the budget settled.
   */
  readonly onCost: (told: Told | "unknown", answer: Uint8Array) => void;
  /** Once, when nothing of it is left. */
  readonly onEnd: () => void;
  /** So much of the answer is kept for `onCost`. */
  readonly keepBytes: number;
  /** For what has to be whole to be read. What there is no room for is passed on unread, and its cost is not known. */
  readonly share: Share;
}

const IDLE = Symbol("nothing came in time");
/** Of an answer in one piece, or of an event, which may be an image or a whole answer once more. */
const MAX_READ_BYTES = 32 * 1024 * 1024;

/** The answer's body, passed on byte by byte as it comes and no faster than it is taken. */
export function relay(parts: Relayed): ReadableStream<Uint8Array> {
  const { answer, isStream, usage, abort, idleMs } = parts;
  const source = answer.body?.getReader();
  const kept: Uint8Array[] = [];
  const state = { keptBytes: 0, isCostTold: false, isOver: false };
  const hold = (bytes: number) => bytes <= MAX_READ_BYTES && parts.share.resize(bytes);
  const count = isStream ? countEvents(usage, parts.isExtra, hold) : countWhole(usage, hold);

  function keep(piece: Uint8Array): void {
    const part = piece.subarray(0, parts.keepBytes - state.keptBytes);
    if (part.length === 0) return;
    kept.push(part);
    state.keptBytes += part.length;
  }

  function tellCost(): void {
    if (state.isCostTold) return;
    state.isCostTold = true;
    parts.onCost(usage.told() ?? "unknown", Buffer.concat(kept));
  }

  function end(): void {
    if (state.isOver) return;
    state.isOver = true;
    tellCost();
    parts.share[Symbol.dispose]();
    parts.onEnd();
  }

  const onAbort = () => end();
  abort.signal.addEventListener("abort", onAbort);
  // Between the answer's head and here, of which nobody is told any more.
  if (abort.signal.aborted) end();

  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        // What was passed on has been taken by now.
        if (!state.isOver) parts.share.resize(count.bytes());
        const idle = setTimeout(() => abort.abort(IDLE), idleMs);
        try {
          for (;;) {
            const next = await source?.read();
            if (next === undefined || next.done) {
              const rest = count.end();
              if (rest.length > 0) controller.enqueue(rest);
              end();
              controller.close();
              return;
            }
            idle.refresh();
            keep(next.value);
            const passed = count.take(next.value);
            if (usage.told()?.final === true) tellCost();
            if (passed.length > 0) return controller.enqueue(passed);
          }
        } catch (error) {
          end();
          // The caller sees the connection break, as the provider's did.
          controller.error(error instanceof Error ? error : new Error("the provider's answer was cut"));
        } finally {
          clearTimeout(idle);
          if (state.isOver) abort.signal.removeEventListener("abort", onAbort);
        }
      },
      cancel() {
        abort.abort(GONE);
        end();
      },
    },
    { highWaterMark: 0 },
  );
}

const GONE = Symbol("the caller has gone");
const NOTHING = new Uint8Array();
/** What ends a stream of OpenAI's. */
const DONE = "[DONE]";

interface Count {
  /** What of it is passed on now. */
  take(piece: Uint8Array): Uint8Array;
  end(): Uint8Array;
  /** How much it keeps. */
  bytes(): number;
}

type Hold = (bytes: number) => boolean;

function countEvents(usage: UsageReader, isExtra: Relayed["isExtra"], hold: Hold): Count {
  const splitter = createEventSplitter(hold);
  /** Whether it is one of those that nobody asked for. */
  const look = (event: ServerEvent): boolean => {
    if (event.includes(DONE) && event.data() === DONE) usage.done();
    if (!event.includes('"usage"')) return false;
    const data = parse(event.data());
    usage.event(data);
    return isExtra?.(data) ?? false;
  };
  const others = (cuts: ReturnType<typeof splitter.take>) => {
    const passed: Uint8Array[] = [];
    for (const cut of cuts) {
      if ("unread" in cut) passed.push(cut.unread);
      else if (!look(cut.event)) passed.push(cut.event.raw);
    }
    return passed;
  };
  const bytes = () => splitter.bytes;
  if (isExtra !== null) {
    return {
      take: (piece) => Buffer.concat(others(splitter.take(piece))),
      end: () => Buffer.concat(others(splitter.end())),
      bytes,
    };
  }
  return {
    take(piece) {
      others(splitter.take(piece));
      return piece;
    },
    end() {
      others(splitter.end());
      return NOTHING;
    },
    bytes,
  };
}

function countWhole(usage: UsageReader, hold: Hold): Count {
  let pieces: Uint8Array[] | null = [];
  let size = 0;
  return {
    take(piece) {
      if (pieces !== null && hold(size + piece.length)) {
        pieces.push(piece);
        size += piece.length;
      } else {
        pieces = null;
        size = 0;
      }
      return piece;
    },
    end() {
      if (pieces !== null) usage.whole(parse(Buffer.concat(pieces).toString("utf8")));
      return NOTHING;
    },
    bytes: () => size,
  };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
