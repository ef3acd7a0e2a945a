import type { RunId } from "../../ids.ts";
import { createSpace } from "../space.ts";
import { Refused } from "./refusal.ts";

const MIB = 1024 * 1024;
const ALL_BYTES = 256 * MIB;
const RUN_BYTES = 64 * MIB;
/** What each run may take whatever the others have. */
const SURE_BYTES = 4 * MIB;
/** For a body to come. */
const READ_MS = 60_000;
/** Of one run, after a first burst: looking at them takes time that all runs share. */
const BYTES_PER_S = 32 * MIB;
const BODY_BYTES = 32 * MIB;
/** What a run may take of the gateway's time to look at its bodies: a part in so many. */
const TIME_SHARE = 4;

const LIMITS = {
  all: ALL_BYTES,
  ofRun: RUN_BYTES,
  sure: SURE_BYTES,
  bytesPerS: BYTES_PER_S,
  readMs: READ_MS,
};
type RoomLimits = typeof LIMITS;

/** A whole body, until it is disposed of. */
export interface Held {
  readonly bytes: Uint8Array;
  /** What is made of it takes so much more. Throws a Refused. */
  take(bytes: number): void;
  [Symbol.dispose](): void;
}

/** What requests' bodies take of the gateway's memory: of all runs together, and of each. */
export function createRoom(options: Partial<RoomLimits> = {}) {
  const { all, ofRun, sure, bytesPerS, readMs } = { ...LIMITS, ...options };
  const space = createSpace({ all, ofRun, sure });
  /** When a run will have made up for what it has sent, if that is yet to come. */
  const settled = new Map<RunId, number>();

  /** Lets a run that sends much wait: its connection fills up, and it with it. */
  async function slow(run: RunId, bytes: number): Promise<void> {
    const ahead = owe(run, (bytes / bytesPerS) * 1000) - (ofRun / bytesPerS) * 1000;
    if (ahead > 1) await Bun.sleep(ahead);
  }

  /** How long it will have to make up for all of it. */
  function owe(run: RunId, ms: number): number {
    const now = performance.now();
    for (const [other, at] of settled) if (at <= now) settled.delete(other);
    const at = Math.max(settled.get(run) ?? 0, now) + ms;
    settled.set(run, at);
    return at - now;
  }

  return {
    /** The whole body, and how to give its room back. Throws a Refused. */
    async read(request: Request, run: RunId): Promise<Held> {
      const chunks: Uint8Array[] = [];
      let [size, held] = [0, 0];
      const share = space.share(run);
      const release = () => share[Symbol.dispose]();
      const take = (bytes: number) => {
        if (!share.resize(held + bytes)) {
          throw new Refused("rate", "Too many large requests are under way.", { retryAfterS: 1 });
        }
        held += bytes;
      };
      const reader = request.body?.getReader();
      const deadline = Date.now() + readMs;
      const timer = setTimeout(() => void reader?.cancel().catch(() => {}), readMs);
      try {
        for (;;) {
          const next = await reader?.read();
          if (Date.now() >= deadline) throw new Refused("request", "The body did not come in time.");
          if (next === undefined || next.done) break;
          const chunk = next.value;
          size += chunk.length;
          if (size > BODY_BYTES) {
            throw new Refused("too_large", `A request may have ${BODY_BYTES / MIB} MiB.`);
          }
          take(chunk.length);
          chunks.push(chunk);
          await slow(run, chunk.length);
        }
      } catch (error) {
        release();
        await reader?.cancel().catch(() => {});
        throw error;
      } finally {
        clearTimeout(timer);
      }
      const [only] = chunks;
      return {
        bytes: chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks),
        take,
        [Symbol.dispose]: release,
      };
    },
    /** So long the gateway has done nothing but look at a body of the run's. */
    took(run: RunId, ms: number): void {
      owe(run, ms * TIME_SHARE);
    },
    get bytes() {
      return space.bytes;
    },
  };
}
