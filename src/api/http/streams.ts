import { AppError } from "../../errors.ts";
import type { KeyId } from "../../ids.ts";
import type { Log } from "../../log.ts";

export interface StreamLimits {
  /** Streams at once: of one key, of one owner, of all. */
  readonly perKey: number;
  readonly perOwner: number;
  readonly all: number;
}

export interface StreamsParts {
  /** In the plural, for people. */
  readonly what: string;
  readonly limits: StreamLimits;
  readonly log: Log;
}

export interface StreamCall {
  /** null is the operator, whose streams are not counted. */
  readonly keyId: KeyId | null;
  /** Whose streams are counted together, too: a workspace, mostly. */
  readonly owner: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Ends the stream. */
  readonly signal: AbortSignal;
}

interface Stream extends Pick<StreamCall, "keyId" | "owner"> {
  readonly cut: () => void;
}

/** Answers that go on for as long as there is something to tell, each at its client's pace. */
export function createStreams({ what, limits, log }: StreamsParts) {
  const open = new Set<Stream>();
  let closed = false;

  function checkRoom(keyId: KeyId, owner: string): void {
    const counted = [...open].filter((stream) => stream.keyId !== null);
    const rooms = [
      {
        whose: "this key",
        most: limits.perKey,
        taken: counted.filter((stream) => stream.keyId === keyId).length,
      },
      {
        whose: "the workspace",
        most: limits.perOwner,
        taken: counted.filter((stream) => stream.owner === owner).length,
      },
      { whose: "the appliance", most: limits.all, taken: counted.length },
    ];
    const full = rooms.find(({ most, taken }) => taken >= most);
    if (full === undefined) return;
    const detail = `All ${full.most} ${what} of ${full.whose} are in use; close one, or try again soon.`;
    throw new AppError("busy", detail, { retryAfterS: 10 });
  }

  return {
    /** `pieces` are asked for one by one as they are taken. `done` settles when it has ended, whoever ended it. */
    open(
      { keyId, owner, headers, signal }: StreamCall,
      pieces: (signal: AbortSignal) => AsyncGenerator<Uint8Array, void>,
    ) {
      if (closed) {
        throw new AppError("unavailable", "The appliance is stopping; try again soon.", { retryAfterS: 5 });
      }
      if (keyId !== null) checkRoom(keyId, owner);
      const over = new AbortController();
      const its = pieces(over.signal);
      const done = Promise.withResolvers<void>();
      let controller: ReadableStreamDefaultController<Uint8Array> | null = null;
      /** False when it had ended before. */
      const end = (): boolean => {
        if (!open.delete(stream)) return false;
        signal.removeEventListener("abort", cut);
        over.abort();
        done.resolve();
        return true;
      };
      const cut = (): void => {
        if (end()) controller?.close();
      };
      const stream: Stream = { keyId, owner, cut };
      open.add(stream);
      signal.addEventListener("abort", cut);
      const body = new ReadableStream<Uint8Array>(
        {
          start(own) {
            controller = own;
            if (signal.aborted) cut();
          },
          async pull(own) {
            try {
              const { value } = await its.next();
              // It may have been cut while this waited.
              if (!open.has(stream)) return;
              if (value === undefined) cut();
              else own.enqueue(value);
            } catch (error) {
              log.error("a stream broke off", { stream: what, cause: error });
              if (end()) own.error(error);
            }
          },
          cancel: () => void end(),
        },
        { highWaterMark: 0 },
      );
      return { response: new Response(body, { headers: { ...headers } }), done: done.promise };
    },

    /** Ends all of them: their clients come back to whoever answers next. */
    close(): void {
      closed = true;
      for (const { cut } of open) cut();
    },

    get size(): number {
      return open.size;
    },
  };
}
