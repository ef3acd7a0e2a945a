import { EventSourceParserStream, type EventSourceMessage } from "eventsource-parser/stream";
import { AppError, codeOf } from "../errors.ts";
import type { Appliance } from "./appliance.ts";
import { terminal } from "./terminal.ts";

const AGAIN_MS = 500;

export interface MessagesOptions {
  /** The id of the last message that is had already. */
  readonly last?: string;
  /** false: what there is by now, and no more. */
  readonly live?: boolean;
  /** It was there just now, so that it comes back when it is not. */
  readonly reached?: boolean;
}

/**
 * The messages of a stream, each once, over as many connections as it takes. It ends when the api says that no more will
 * come, and throws when the first connection fails, or one is refused.
 */
export async function* messagesOf(
  appliance: Appliance,
  path: string,
  { last: from, live = true, reached = false }: MessagesOptions = {},
): AsyncGenerator<EventSourceMessage, void> {
  let last = from;
  let isAway = false;
  let wasReached = reached;
  for (;;) {
    let heard = false;
    try {
      const headers: Record<string, string> = last === undefined ? {} : { "last-event-id": last };
      const { status, body } = await appliance.call(path, { headers });
      wasReached = true;
      isAway = false;
      if (status === 204 || body === null) return;
      const messages = body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
      for await (const message of messages) {
        heard = true;
        yield message;
        last = message.id ?? last;
      }
      // It ends streams cleanly, too, when it stops, so the next connection tells.
      if (!live && !heard) return;
    } catch (error) {
      if (!wasReached || !isLost(error)) throw error;
      if (!isAway) terminal.warn("the appliance is away; this goes on when it is back.");
      isAway = true;
    }
    if (!heard) await Bun.sleep(AGAIN_MS);
  }
}

/** A call to an appliance that was there just now. */
export async function whenBack<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!isLost(error)) throw error;
      await Bun.sleep(AGAIN_MS);
    }
  }
}

/** Away, or ended in the middle of an answer: it will be back. */
function isLost(error: unknown): boolean {
  return error instanceof AppError ? error.code === "unavailable" : codeOf(error) !== undefined;
}
