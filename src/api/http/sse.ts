import { microTimestamp, type StoredEvent } from "../../audit/event.ts";
import type { Step } from "../../audit/follow.ts";

export const SSE_HEADERS = {
  "content-type": "text/event-stream",
  "cache-control": "no-store",
  // nginx would collect the answer.
  "x-accel-buffering": "no",
};

const encoder = new TextEncoder();

export function eventBlock({ id, body }: Pick<StoredEvent, "id" | "body">): Uint8Array {
  return jsonBlock(`id: ${id}`, body);
}

/**
 * JSON on one line of data, below the lines of its head. Python's splitlines, by which the SDK reads, splits also at
 * characters that JSON leaves as they are: NEL and the separators. They are only inside strings, where an escape says
 * the same.
 */
export function jsonBlock(head: string, json: string): Uint8Array {
  return encoder.encode(`${head}\ndata: ${json.replaceAll(/[\u0085\u2028\u2029]/g, escaped)}\n\n`);
}

export const commentBlock = (text: string): Uint8Array => encoder.encode(`: ${text}\n\n`);

function escaped(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

/** What a step of a follower is on the wire: https://html.spec.whatwg.org/multipage/server-sent-events.html */
export function stepBytes(step: Step): Uint8Array {
  if (step.kind === "events") return Buffer.concat(step.events);
  if (step.kind === "connected") return encoder.encode('data: {"type":"connected"}\n\n');
  if (step.kind === "idle") return commentBlock("heartbeat");
  const detail =
    step.kind === "gap"
      ? "Events from before this time are not kept any more."
      : "This client reads too slowly; connect again to go on.";
  const data = { type: "lagged", since: microTimestamp(step.since), detail };
  return encoder.encode(`event: lagged\ndata: ${JSON.stringify(data)}\n\n`);
}
