import { AppError } from "../../errors.ts";

/** Shorter ones are not counted. */
const LARGE_BYTES = 1024 * 1024;

/**
 * Bounds what the bodies that are held in memory as a whole take for one owner together. Who has more is told to come
 * back, before any of it is read; nobody waits, or a client that sends slowly would keep the others waiting.
 */
export function createLargeBodies(maxBytes: number) {
  const held = new Map<string, number>();

  return {
    /** Runs `work`, which reads the body; `most` counts for a length that is not announced. */
    async hold<T>(owner: string, request: Request, most: number, work: () => Promise<T>): Promise<T> {
      const announced = request.headers.get("content-length");
      // What is too large is refused for that.
      const bytes = Math.min(announced === null ? most : Number(announced), most);
      if (bytes <= LARGE_BYTES) return work();
      const before = held.get(owner) ?? 0;
      if (before + bytes > maxBytes) {
        throw new AppError(
          "busy",
          "Too many large bodies of this namespace are on their way; try again in a moment, or send files by PUT.",
          { retryAfterS: 1 },
        );
      }
      held.set(owner, before + bytes);
      try {
        return await work();
      } finally {
        const rest = (held.get(owner) ?? 0) - bytes;
        if (rest > 0) held.set(owner, rest);
        else held.delete(owner);
      }
    },
  };
}
